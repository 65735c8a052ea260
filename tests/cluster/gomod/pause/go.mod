module github.com/qwen-vllm/qwen-vllm/tests/cluster/pause

go 1.24.0

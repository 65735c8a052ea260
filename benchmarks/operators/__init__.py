"""This operator and that of vllm-project/production-stack, side by side; see OPERATOR.md."""

"""Whether a model fits is decided before it is loaded, and nothing that could run is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_sizes import GPUS, MIB, models
from qwen_server.control import fit
from qwen_server.control.fit import (
    Plan,
    Shape,
    base_bytes,
    check_fit,
    fewest_gpus,
    fits,
    kv_bytes,
    longest,
    shape_of,
    trouble_on_cpu,
    trouble_on_gpus,
)
from qwen_server.engine.base import EngineError
from qwen_server.observe.memory import container_memory
from qwen_server.observe.model_files import Weights, model_folder, read_config, read_weights
from tests.unit.qwen_server.serving import make_settings

ROOT = Path(__file__).resolve().parents[3]
BUILTIN = ROOT / "server" / "models" / "news-classifier"
CONFIGS: dict[str, dict[str, Any]] = json.loads((ROOT / "server" / "tools" / "model_configs.json").read_text())
GIB = 1 << 30

shapes = st.builds(
    Shape,
    weights=st.integers(1, 1 << 40),
    kv_token=st.sampled_from([0, 2 * 28 * 128 * 2, 2 * 64 * 128 * 2]),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    heads=st.sampled_from([8, 14, 16, 40, 64]),
    activation_token=st.integers(0, 1 << 16),
)
plans = st.builds(Plan, length=st.integers(2, 1 << 18), tensor=st.sampled_from([1, 2, 4]), pipeline=st.integers(1, 2))
memories = st.integers(1, 1 << 40)


@given(shape=shapes, plan=plans, memory=memories)
def test_what_is_suggested_fits_and_is_the_smallest_change(shape: Shape, plan: Plan, memory: int) -> None:
    if (length := longest(shape, plan, memory)) is not None:
        assert length < plan.length
        assert fits(shape, replace(plan, length=length), memory)
        assert length + 128 >= plan.length or not fits(shape, replace(plan, length=length + 128), memory)
    if (size := fewest_gpus(shape, plan, memory)) is not None:
        assert size > plan.tensor
        assert fits(shape, replace(plan, tensor=size), memory)


@given(shape=shapes, plan=plans, more=st.integers(0, 1 << 40))
def test_more_memory_or_a_smaller_model_never_turns_a_fit_into_a_refusal(shape: Shape, plan: Plan, more: int) -> None:
    memory = base_bytes(shape, plan) + kv_bytes(shape, plan, plan.length)
    assert fits(shape, plan, memory)
    assert not fits(shape, plan, memory - 1)
    assert fits(shape, plan, memory + more)
    assert fits(replace(shape, weights=shape.weights // 2), plan, memory)
    assert fits(replace(shape, kv_token=0), plan, memory)
    assert trouble_on_gpus(shape, plan, memory, 1.0) is None


@given(shape=shapes, plan=plans, total=memories, share=st.floats(0.1, 1))
def test_a_model_is_refused_exactly_if_it_does_not_fit(shape: Shape, plan: Plan, total: int, share: float) -> None:
    assert (trouble_on_gpus(shape, plan, total, share) is None) == fits(shape, plan, int(total * share))


@given(shape=shapes, length=st.integers(2, 1 << 18), cache=memories, memory=st.none() | memories)
def test_on_a_cpu_the_same_holds_for_the_cache_and_the_container(
    shape: Shape, length: int, cache: int, memory: int | None
) -> None:
    plan = Plan(length, kv_cache=cache)
    assert (trouble_on_cpu(shape, plan, memory) is None) == fits(shape, plan, 1 << 62 if memory is None else memory)


def shape_and_context(name: str) -> tuple[Shape, int]:
    found = shape_of(CONFIGS[name], make_settings())
    assert found is not None
    return found


def test_what_the_table_of_models_says_fits_is_not_refused() -> None:
    for model in models():
        shape, context = shape_and_context(model.name)
        for mebibytes in GPUS.values():
            if (gpus := model.fewest_gpus(mebibytes * MIB)) is not None:
                plan = Plan(context, tensor=gpus)
                assert trouble_on_gpus(replace(shape, weights=model.weight_bytes), plan, mebibytes * MIB, 0.9) is None


def test_the_example_of_the_page_is_what_the_server_says() -> None:
    [model] = [model for model in models() if model.name == "Qwen/Qwen3-8B"]
    shape, context = shape_and_context(model.name)
    said = trouble_on_gpus(replace(shape, weights=model.weight_bytes), Plan(context), 23034 * MIB, 0.9)
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```text\n(the model cannot be served.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert " ".join(example.split()) == f"the model cannot be served: {said}"


def write(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    """Writes the head of a safetensors file; each tensor has a type, a shape and its bytes."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (kind, shape, size) in tensors.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_weights_are_counted_by_the_heads_of_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", **{"model.x": ("BF16", [3, 5], 30), "lm_head.weight": ("F32", [7], 28)})
    write(tmp_path / "b.safetensors", **{"model.q": ("I32", [4], 16), "mtp.x": ("BF16", [100], 200)})
    index = {"weight_map": {"model.x": "a.safetensors", "lm_head.weight": "a.safetensors", "model.q": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_weights(tmp_path, tied=False, quantized=False) == Weights(22, 16)
    assert read_weights(tmp_path, tied=True, quantized=False) == Weights(15, 16)
    assert read_weights(tmp_path, tied=False, quantized=True) == Weights(0, 74)
    (tmp_path / "b.safetensors").unlink()
    assert read_weights(tmp_path, tied=False, quantized=False) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 8, b"\5\0\0\0\0\0\0\0[1,2]", b"\x40\0\0\0\0\0\0\0{}"])
def test_what_is_no_safetensors_file_is_not_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert read_weights(tmp_path, tied=False, quantized=False) is None


@pytest.mark.parametrize("index", [[], {}, {"weight_map": 3}, {"weight_map": {"a": "../../etc/passwd"}}])
def test_an_index_that_cannot_be_meant_is_not_known(tmp_path: Path, index: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_weights(tmp_path, tied=False, quantized=False) is None


def test_a_model_is_found_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--Qwen--Qwen3-8B"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (cache / "snapshots" / ("a" * 40)).mkdir(parents=True)
    home = {"HF_HOME": str(tmp_path)}
    found = cache / "snapshots" / ("a" * 40)
    assert model_folder("Qwen/Qwen3-8B", None, home) == found
    assert model_folder("Qwen/Qwen3-8B", "a" * 40, {"HF_HUB_CACHE": str(tmp_path / "hub")}) == found
    assert model_folder("Qwen/Qwen3-8B", "v2", home) is None
    assert model_folder("Qwen/Qwen3-4B", None, home) is None
    assert model_folder("Qwen/Qwen3-8B", None, {**home, "VLLM_USE_MODELSCOPE": "True"}) is None
    assert model_folder(str(found), None, {}) == found


def container(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 8388608 kB\nSwapTotal: 1048576 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 9),
        ({"sys/fs/cgroup/memory.max": "max"}, 9),
        ({"sys/fs/cgroup/memory.max": str(4 * GIB), "sys/fs/cgroup/memory.swap.max": "0"}, 4),
        ({"sys/fs/cgroup/memory.max": str(4 * GIB), "sys/fs/cgroup/memory.swap.max": "max"}, 5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": str(2 * GIB)}, 3),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": str(3 * GIB)}, 4),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 9),
        ({"proc/self/cgroup": "garbage\n"}, 9),
    ],
)
def test_the_memory_is_that_of_the_container_with_swap(tmp_path: Path, files: dict[str, str], gib: int) -> None:
    assert container_memory(container(tmp_path, files)) == gib * GIB


def test_without_the_files_of_linux_the_memory_is_not_known(tmp_path: Path) -> None:
    assert container_memory(tmp_path) is None


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What there is, in bytes: `gpu` on each of two GPUs, `container` for all."""
    there: dict[str, int | None] = {"gpu": 80 * GIB, "container": 8 * GIB}
    monkeypatch.setattr(fit, "gpu_memory", lambda count: there["gpu"] if count <= 2 else None)
    monkeypatch.setattr(fit, "container_memory", lambda: there["container"])
    return there


def test_a_model_that_fits_is_served(memory: dict[str, int | None]) -> None:
    check_fit(make_settings(), "cpu")
    check_fit(make_settings(device="cuda"), "cuda")
    memory["gpu"] = memory["container"] = None
    check_fit(make_settings(device="cuda"), "cuda")
    check_fit(make_settings(), "cpu")


def test_a_model_that_is_too_large_for_the_gpu_is_refused_with_what_fits(memory: dict[str, int | None]) -> None:
    memory["gpu"] = 14 << 20
    with pytest.raises(EngineError, match=r"request of 4096 tokens.*fit with --max-model-len=2560"):
        check_fit(make_settings(device="cuda", gpu_memory_utilization=0.9), "cuda")
    memory["gpu"] = 1 << 20
    with pytest.raises(EngineError, match="larger GPUs or a quantized model"):
        check_fit(make_settings(device="cuda"), "cuda")


def test_on_a_cpu_cache_and_container_are_refused_with_what_fits(memory: dict[str, int | None]) -> None:
    with pytest.raises(EngineError, match=r"fits with --max-model-len=640 or --kv-cache-gib=0.25"):
        check_fit(make_settings(kv_cache_gib=0.001), "cpu")
    memory["container"] = GIB
    with pytest.raises(EngineError, match=r"fit with --kv-cache-gib=0.01 or a memory limit of 2.75 GiB"):
        check_fit(make_settings(kv_cache_gib=1), "cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"pass_through": ("--cpu-offload-gb=40",)},
        {"pass_through": ("--max-num-seqs=8", "--load-format=dummy")},
        {"pass_through": ("--max-num-seqs", "8")},
        {"tensor_parallel_size": 4},
        {"model": "Qwen/No-Such-Model-Here"},
    ],
)
def test_where_a_number_is_not_known_nothing_is_refused(memory: dict[str, int | None], values: dict[str, Any]) -> None:
    memory["gpu"] = 1 << 20
    check_fit(make_settings(device="cuda", **values), "cuda")


def test_the_data_type_and_quantization_change_the_need(tmp_path: Path, memory: dict[str, int | None]) -> None:
    config = read_config(BUILTIN)
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps(config))
    write(tmp_path / "model.safetensors", x=("BF16", [1 << 30], 2 << 30))
    settings = {"model": str(tmp_path), "device": "cuda"}
    memory["gpu"] = 3 * GIB
    check_fit(make_settings(**settings), "cuda")
    with pytest.raises(EngineError, match=r"4\.0 GiB of weights"):
        check_fit(make_settings(**settings, dtype="float32"), "cuda")
    memory["gpu"] = 3 * GIB // 2
    with pytest.raises(EngineError, match=r"2\.0 GiB of weights"):
        check_fit(make_settings(**settings), "cuda")
    check_fit(make_settings(**settings, quantization="fp8"), "cuda")


def test_a_model_that_generates_no_text_needs_no_output_layer(tmp_path: Path, memory: dict[str, int | None]) -> None:
    config = read_config(BUILTIN)
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    write(tmp_path / "model.safetensors", **{"lm_head.weight": ("BF16", [1 << 30], 2 << 30)})
    memory["gpu"] = GIB
    settings = {"model": str(tmp_path), "device": "cuda"}
    with pytest.raises(EngineError, match=r"2\.0 GiB of weights"):
        check_fit(make_settings(**settings), "cuda")
    check_fit(make_settings(**settings, task="embed"), "cuda")


def test_the_program_exits_78_before_it_imports_vllm(tmp_path: Path) -> None:
    """`--device=cpu` and a KV cache of 1 MiB."""
    log = tmp_path / "termination-log"
    log.touch()  # as the kubelet does
    command = [sys.executable, "-X", "importtime", "-m", "qwen_server", "--device=cpu", "--kv-cache-gib=0.001"]
    command += ["--port=0", "--host=127.0.0.1", f"--termination-log={log}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 78, ended.stdout
    assert log.read_text().startswith("the model cannot be served: it does not fit: a request of 4096 tokens")
    assert not re.search(r"\| +(vllm|torch)$", ended.stderr, re.MULTILINE)

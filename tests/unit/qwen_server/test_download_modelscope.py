"""Downloads from ModelScope, whose library is played here: it only logs what it cannot download."""

from __future__ import annotations

import hashlib
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qwen_server.config.command_line import load_settings
from qwen_server.control.adapters import AdapterError
from qwen_server.control.adapters_file import Source
from qwen_server.download import command
from qwen_server.download.adapters import fetch_adapter
from qwen_server.download.command import repository_of
from qwen_server.download.files import DamagedFileError
from qwen_server.download.hugging_face import HuggingFaceRepository
from qwen_server.download.model_scope import ModelScopeRepository
from qwen_server.download.progress import Tracker

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"the same weights",
}
NEEDED = sum(len(content) for name, content in FILES.items() if not name.endswith(".bin"))


class Hub:
    """ModelScope and its library. `fails` are files that it does not download, `damages` those that
    arrive damaged.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.files = FILES
        self.fails: set[str] = set()
        self.damages: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def get_model_files(self, model_id: str, *, revision: str, recursive: bool) -> list[dict[str, Any]]:
        assert recursive
        self.asked.append((model_id, revision))
        blobs = [
            {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.files.items()
        ]
        return [{"Path": "folder", "Type": "tree", "Size": 0}, *blobs]

    def list_repo_files(self, repo_id: str, repo_type: str, *, revision: str, recursive: bool) -> list[SimpleNamespace]:
        """The same by the package of newer releases."""
        assert repo_type == "model"
        return [
            SimpleNamespace(path=entry["Path"], size=entry["Size"], type=entry["Type"], sha256=entry.get("Sha256"))
            for entry in self.get_model_files(repo_id, revision=revision, recursive=recursive)
        ]

    def snapshot_download(
        self, model_id: str, *, revision: str, ignore_patterns: list[str], allow_patterns: list[str] | None = None
    ) -> str:
        folder = self.cache / "models" / model_id.replace(".", "___")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if allow_patterns is not None and name not in allow_patterns:
                continue
            if name not in self.fails and f"*{Path(name).suffix}" not in ignore_patterns:
                (folder / name).write_bytes(content[:-1] + b"!" if name in self.damages else content)
        return str(folder)


@pytest.fixture(params=["older", "newer"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """With the library before and since release 1.38."""
    playing = Hub(tmp_path)
    api, download = ModuleType("modelscope.hub.api"), ModuleType("modelscope.hub.snapshot_download")
    newer = ModuleType("modelscope_hub")
    vars(newer)["HubApi"] = lambda: playing
    if request.param == "older":
        vars(api)["HubApi"] = lambda: playing
    # None: the package is not installed, whatever this environment has.
    monkeypatch.setitem(sys.modules, "modelscope_hub", newer if request.param == "newer" else None)
    vars(download)["snapshot_download"] = playing.snapshot_download
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, api.__name__, api)
    monkeypatch.setitem(sys.modules, download.__name__, download)
    return playing


def test_the_files_that_vllm_reads_are_downloaded_and_checked(hub: Hub) -> None:
    tracker = Tracker()
    repository = ModelScopeRepository("Qwen/Qwen2.5-7B", None, tracker, hub.cache)
    assert command.download(repository, tracker, tick=0.05) is None
    assert hub.asked == [("Qwen/Qwen2.5-7B", "master")]
    assert not list(hub.cache.rglob("*.bin"))
    figures = tracker.report()
    assert (figures["phase"], figures["downloadedBytes"], figures["totalBytes"]) == ("Complete", NEEDED, NEEDED)


def test_a_file_that_was_not_downloaded_is_seen(hub: Hub) -> None:
    hub.fails = {"model.safetensors"}
    repository = ModelScopeRepository("Qwen/Qwen3-8B", "v1", Tracker(), hub.cache)
    with pytest.raises(OSError, match=r"did not download model\.safetensors"):
        repository.fetch()
    hub.fails = set()
    repository.fetch()
    assert repository.downloaded() == NEEDED


def test_a_damaged_file_is_removed(hub: Hub) -> None:
    hub.damages = {"model.safetensors"}
    repository = ModelScopeRepository("Qwen/Qwen3-8B", None, Tracker(), hub.cache)
    with pytest.raises(DamagedFileError):
        repository.fetch()
    assert not list(hub.cache.rglob("*.safetensors"))


def test_of_an_adapter_only_its_two_files_are_downloaded(hub: Hub) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    hub.files = FILES | adapter | {"adapter_model.bin": b"a pickle"}
    source = Source(repository="me/news-lora", revision="v2", hub="modelscope")
    folder = fetch_adapter(source, hub.cache)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == adapter
    assert hub.asked == [("me/news-lora", "v2")]
    hub.damages = {"adapter_model.safetensors"}
    with pytest.raises(AdapterError, match=r"cannot be downloaded: adapter_model.safetensors has another checksum"):
        fetch_adapter(source, hub.cache)


def test_an_adapter_that_modelscope_does_not_give_is_tried_again(hub: Hub) -> None:
    hub.files = {"adapter_config.json": b"{}"}
    hub.fails = {"adapter_config.json"}
    with pytest.raises(AdapterError, match="cannot be downloaded: ModelScope's library did not") as failed:
        fetch_adapter(Source(repository="me/news-lora", hub="modelscope"), hub.cache)
    assert failed.value.temporary
    assert hub.asked == [("me/news-lora", "master")]


@pytest.mark.parametrize(
    ("value", "kind"), [("True", ModelScopeRepository), ("false", HuggingFaceRepository), ("", HuggingFaceRepository)]
)
def test_vllms_own_variable_chooses_the_hub(value: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", value)
    assert isinstance(repository_of(load_settings(["--model=Qwen/Qwen3-8B"]), Tracker()), kind)


def test_the_installed_library_takes_what_it_is_given() -> None:
    """The tests above play the library. This one is what the images have."""
    from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415 - it takes a second

    # What `qwen-server download` gives, and what vLLM gives.
    given = {"model_id", "revision", "ignore_patterns"} | {"cache_dir", "local_files_only", "ignore_file_pattern"}
    assert given | {"allow_patterns"} <= signature(snapshot_download).parameters.keys()

"""A LoRA adapter from a local mirror of the Hub: its two files, and what happens without a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_server.control.adapters import AdapterError
from qwen_server.control.adapters_file import Source
from qwen_server.download.adapters import fetch_adapter
from tests.lora_adapters import make_adapter
from tests.unit.qwen_server.hub_mirror import COMMIT, REPOSITORY, Mirror, serve_mirror
from tests.unit.qwen_server.test_lifecycle_of_program import Program

SOURCE = Source(repository=REPOSITORY, revision="main")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    folder = make_adapter(tmp_path / "adapter")
    with serve_mirror() as running:
        running.files |= {path.name: path.read_bytes() for path in folder.iterdir()}
        yield running


def test_only_the_files_of_the_adapter_arrive(mirror: Mirror, tmp_path: Path) -> None:
    folder = fetch_adapter(SOURCE, tmp_path / "cache", mirror.url)
    assert folder.name == COMMIT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content for name, content in mirror.files.items() if name.startswith("adapter_")
    }


def test_a_hub_that_fails_for_a_while_is_a_temporary_failure(mirror: Mirror, tmp_path: Path) -> None:
    mirror.refuse("", 503)
    with pytest.raises(AdapterError, match="cannot be downloaded") as failed:
        fetch_adapter(SOURCE, tmp_path / "cache", mirror.url)
    assert failed.value.temporary


def test_the_program_is_ready_when_it_has_the_adapters_of_its_file(mirror: Mirror, tmp_path: Path) -> None:
    """A hub that is late keeps it from getting ready, and a broken adapter does not."""
    late = {"name": "late", "repository": REPOSITORY, "revision": "main"}
    file = tmp_path / "adapters.json"
    file.write_text(json.dumps({"adapters": [late, {"name": "broken", "path": "/nowhere"}]}))
    mirror.refuse("", 503)
    hub = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    program = Program(tmp_path, "--enable-lora", f"--adapters-file={file}", environment=hub)
    try:
        program.until(lambda: "cannot load the adapter late" in program.log.read_text())
        assert program.health() == "starting"
        assert program.get("/v1/models").status_code == 503
        mirror.refusals.clear()
        program.until_ready()
        names = [model["id"] for model in program.get("/v1/models").json()["data"]]
        assert names == ["scripted", "late"]
    finally:
        program.process.kill()
        program.process.wait()


def test_a_copy_in_the_cache_is_used_while_the_hub_cannot_be_asked(mirror: Mirror, tmp_path: Path) -> None:
    folder = fetch_adapter(SOURCE, tmp_path / "cache", mirror.url)
    mirror.refuse("", 503)
    assert fetch_adapter(SOURCE, tmp_path / "cache", mirror.url) == folder


def test_a_repository_that_does_not_exist_is_named(mirror: Mirror, tmp_path: Path) -> None:
    headers: dict[str, Any] = {"X-Error-Code": "RepoNotFound"}
    mirror.refuse("", 404, **headers)
    with pytest.raises(AdapterError, match="cannot be downloaded") as failed:
        fetch_adapter(SOURCE, tmp_path / "cache", mirror.url)
    assert not failed.value.temporary

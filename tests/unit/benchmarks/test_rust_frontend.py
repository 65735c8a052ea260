"""How vLLM's Rust frontend is found, fetched and started."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import rust_frontend
from benchmarks.context import Context
from benchmarks.servers import Engine

PROGRAM = b"#!/bin/sh\n"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of the wheel's kind with an empty cache and a vLLM without the program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(rust_frontend, "SHA256", hashlib.sha256(PROGRAM).hexdigest())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(rust_frontend, "installed_version", lambda: rust_frontend.VERSION)
    rust_frontend.program.cache_clear()
    yield
    rust_frontend.program.cache_clear()


def _wheel(folder: Path, content: bytes = PROGRAM, member: str = rust_frontend.MEMBER) -> Path:
    path = folder / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_the_program_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rust_frontend, "fetch", _wheel)
    first = rust_frontend.program()
    assert first.read_bytes() == PROGRAM
    assert first.stat().st_mode & 0o111
    rust_frontend.program.cache_clear()
    monkeypatch.delattr(rust_frontend, "fetch")
    assert rust_frontend.program() == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_another_program_is_not_run(tmp_path: Path) -> None:
    target = tmp_path / "vllm-rs"
    with pytest.raises(rust_frontend.Unavailable, match="not the pinned one"):
        rust_frontend.extract(_wheel(tmp_path, b"other"), target)
    with pytest.raises(rust_frontend.Unavailable, match="has no vllm/vllm-rs"):
        rust_frontend.extract(_wheel(tmp_path, member="x"), target)
    assert not target.exists()


def test_a_machine_without_it_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rust_frontend, "installed_version", lambda: "0.1.0")
    context = Context(Engine("m", "cpu"), tmp_path, 1, True, "")
    assert context.peers == ("ours", "vllm")
    assert context.without_rust == f"vLLM 0.1.0 is installed, and the pinned frontend is of {rust_frontend.VERSION}"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(rust_frontend, "installed_version", lambda: rust_frontend.VERSION)
    with pytest.raises(rust_frontend.Unavailable, match="Linux x86_64"):
        rust_frontend.program()


def test_a_failed_download_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = rust_frontend.cache_folder() / "uv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text("#!/bin/sh\necho one >&2\necho no such host >&2\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(rust_frontend.Unavailable, match="cannot be downloaded: no such host"):
        rust_frontend.fetch(tmp_path)


def test_the_program_of_the_installed_vllm_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr("importlib.util.find_spec", lambda _: spec)
    (tmp_path / "vllm-rs").write_bytes(PROGRAM)
    with pytest.raises(rust_frontend.Unavailable, match="does not run on this machine"):
        rust_frontend.program()
    (tmp_path / "vllm-rs").chmod(0o755)
    assert rust_frontend.program() == tmp_path / "vllm-rs"


def test_a_gpu_without_room_for_three_engines_is_measured_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rust_frontend, "fetch", _wheel)
    assert Context(Engine("m", "cuda"), tmp_path, 1, True, "").peers == ("ours", "vllm", "rust")
    small = Context(Engine("m", "cuda", gpu_memory_utilization=0.4), tmp_path, 1, True, "")
    assert small.peers == ("ours", "vllm")
    assert "GPU" in small.without_rust


def test_vllms_command_finds_the_metadata_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rust_frontend, "fetch", _wheel)

    def version(name: str) -> str:
        if name == "vllm":
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    changed = rust_frontend.environment(tmp_path, {"PYTHONPATH": "/a"})
    monkeypatch.undo()
    first, folder = changed["PYTHONPATH"].split(":")
    assert first == "/a"
    assert [found.version for found in metadata.distributions(name="vllm", path=[folder])] == ["1.2.3+cpu"]
    assert changed["VLLM_USE_RUST_FRONTEND"] == "1"
    assert changed["VLLM_RUST_FRONTEND_PATH"].endswith(f"vllm-rs-{rust_frontend.VERSION}")


def test_the_pins_agree() -> None:
    assert f"vllm=={rust_frontend.VERSION} " in rust_frontend.PINS.read_text(encoding="utf-8")

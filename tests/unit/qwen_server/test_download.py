"""A download from a local mirror of the Hub: what arrives, and every way to fail."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from huggingface_hub import constants, snapshot_download

from qwen_server.download.command import download
from qwen_server.download.failures import Failure, explain
from qwen_server.download.files import DamagedFileError, left_out
from qwen_server.download.hugging_face import HuggingFaceRepository
from qwen_server.download.progress import Tracker, serve
from tests.unit.qwen_server.hub_mirror import FILES, REPOSITORY, WEIGHTS, Mirror, serve_mirror

NEEDED = sorted(name for name in FILES if not name.endswith(".bin") and "/" not in name)
FIRST = "model-00001-of-00002.safetensors"
CHUNK = constants.DOWNLOAD_CHUNK_SIZE
"""So much is written at once."""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve_mirror() as running:
        yield running


@pytest.fixture
def tracker() -> Tracker:
    return Tracker()


class Downloading(NamedTuple):
    """A download into an empty cache."""

    mirror: Mirror
    tracker: Tracker
    cache: Path

    def run(self, *, repository: str = REPOSITORY, revision: str = "main", patience: float = 60.0) -> Failure | None:
        wanted = HuggingFaceRepository(repository, revision, self.tracker, self.cache, self.mirror.url)
        return download(wanted, self.tracker, patience=patience, tick=0.05)

    def blob(self, name: str = FIRST) -> Path:
        return self.cache / "models--Qwen--Tiny" / "blobs" / hashlib.sha256(FILES[name]).hexdigest()

    def content(self) -> dict[str, bytes]:
        """What vLLM finds in the cache without asking the Hub."""
        ignored = left_out(FILES)
        found = snapshot_download(REPOSITORY, cache_dir=self.cache, local_files_only=True, ignore_patterns=ignored)
        folder = Path(found)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def subject(mirror: Mirror, tracker: Tracker, tmp_path: Path) -> Downloading:
    return Downloading(mirror, tracker, tmp_path / "cache")


def test_the_files_that_vllm_reads_are_where_it_looks_for_them(subject: Downloading) -> None:
    assert subject.run() is None
    assert subject.content() == {name: FILES[name] for name in NEEDED}
    figures = subject.tracker.report()
    total = sum(len(FILES[name]) for name in NEEDED)
    assert (figures["phase"], figures["downloadedBytes"], figures["totalBytes"]) == ("Complete", total, total)
    assert figures["secondsRemaining"] == 0


def test_what_is_there_is_not_downloaded_again(subject: Downloading) -> None:
    assert subject.run() is None
    before = subject.mirror.downloads()
    assert sorted(before) == NEEDED
    assert subject.run() is None
    assert subject.mirror.downloads() == before


def test_a_connection_that_was_cut_is_continued(subject: Downloading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)  # as much as is written at once
    subject.mirror.cut_after = 300_000
    assert subject.run() is None
    assert "bytes=262144-" in subject.mirror.ranges()
    assert subject.content()[FIRST] == WEIGHTS


def test_an_unfinished_file_is_continued(subject: Downloading) -> None:
    partial = subject.blob().with_name(f"{subject.blob().name}.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:700_000])
    assert subject.run() is None
    assert "bytes=700000-" in subject.mirror.ranges()
    assert subject.content()[FIRST] == WEIGHTS
    assert not list(partial.parent.glob("*.partial"))


def test_an_unfinished_file_that_is_too_long_is_begun_again(subject: Downloading) -> None:
    partial = subject.blob().with_name(f"{subject.blob().name}.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS + b"more")
    assert subject.run() is None
    assert subject.content()[FIRST] == WEIGHTS


def test_a_damaged_file_never_gets_its_name_and_is_downloaded_again(subject: Downloading) -> None:
    subject.mirror.damaged = 1
    assert subject.run() is None
    assert len(subject.mirror.downloads()) > len(NEEDED)
    assert subject.content() == {name: FILES[name] for name in NEEDED}


def test_a_damaged_file_of_an_earlier_download_is_replaced(subject: Downloading) -> None:
    assert subject.run() is None
    subject.blob().write_bytes(WEIGHTS[:-1] + b"!")
    assert subject.run() is None
    assert subject.content()[FIRST] == WEIGHTS


def test_what_a_killed_process_has_left_is_removed_when_it_is_old(subject: Downloading) -> None:
    blobs = subject.blob().parent
    blobs.mkdir(parents=True)
    for name, age in (("old.1234.incomplete", 7200), ("young.1234.incomplete", 60)):
        (blobs / name).write_bytes(b"x")
        os.utime(blobs / name, (time.time() - age,) * 2)
    assert subject.run() is None
    assert [path.name for path in blobs.glob("*.incomplete")] == ["young.1234.incomplete"]


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"X_Error_Message": "Invalid username or password."}, "denies access (HTTP 401)"),
        (403, {"X_Error_Code": "GatedRepo"}, "denies access (HTTP 403)"),
        (404, {"X_Error_Code": "RepoNotFound"}, "does not have it (HTTP 404)"),
        (451, {}, "refuses the request (HTTP 451)"),
    ],
)
@pytest.mark.parametrize("part", ["/revision/", "/resolve/"])
def test_a_refusal_ends_the_download_at_once(
    subject: Downloading, part: str, status: int, headers: dict[str, Any], words: str
) -> None:
    subject.mirror.refuse(part, status, 1_000_000, **headers)
    failure = subject.run()
    assert failure is not None
    assert failure.permanent
    assert words in failure.cause
    assert subject.tracker.report()["phase"] == "Failed"


def test_a_revision_that_does_not_exist(subject: Downloading) -> None:
    failure = subject.run(revision="v2")
    assert failure is not None
    assert failure.permanent
    assert "does not have it (HTTP 404)" in failure.cause


def test_a_token_lets_in(subject: Downloading, monkeypatch: pytest.MonkeyPatch) -> None:
    subject.mirror.token = "secret"
    failure = subject.run()
    assert failure is not None
    assert "denies access (HTTP 401)" in failure.cause
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert subject.run() is None


@pytest.mark.parametrize("part", ["/revision/", "/tree/", "/resolve/"])
def test_too_many_requests_wait_as_long_as_the_hub_asks(subject: Downloading, part: str) -> None:
    subject.mirror.refuse(part, 429, times=1, Retry_After="1")
    started = time.monotonic()
    assert subject.run() is None
    assert 1.0 <= time.monotonic() - started < 20.0


@pytest.mark.parametrize(("status", "words"), [(429, "limits the number of requests"), (503, "has an error")])
def test_it_gives_up_when_nothing_arrives_for_long(subject: Downloading, status: int, words: str) -> None:
    subject.mirror.refuse("/revision/", status, Retry_After="30")
    failure = subject.run(patience=0.5)
    assert failure is not None
    assert not failure.permanent
    assert words in failure.cause
    assert words in subject.tracker.report()["message"]


def test_no_network(tracker: Tracker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    repository = HuggingFaceRepository(REPOSITORY, None, tracker, tmp_path, url)
    failure = download(repository, tracker, patience=0.5, tick=0.05)
    assert failure is not None
    assert not failure.permanent
    assert "cannot be reached" in failure.cause


def test_a_hub_that_is_silent(subject: Downloading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HuggingFaceRepository, "fetch", lambda _: time.sleep(30))
    failure = subject.run(patience=0.5)
    assert failure is not None
    assert not failure.permanent
    assert "nothing has arrived for 0 s" in failure.cause


def test_too_small_a_disk_is_seen_before_the_download(subject: Downloading, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    failure = subject.run()
    assert failure is not None
    assert failure.permanent
    assert "No space left on device" in failure.cause
    assert "0.00 GB are free" in failure.cause
    assert subject.mirror.downloads() == []


def test_a_disk_that_becomes_full(subject: Downloading) -> None:
    subject.blob().parent.mkdir(parents=True)
    subject.blob().with_name(f"{subject.blob().name}.partial").symlink_to("/dev/full")
    failure = subject.run()
    assert failure is not None
    assert failure.permanent
    assert "No space left on device" in failure.cause


def test_the_progress_can_be_asked_for(tracker: Tracker) -> None:
    server = serve(tracker, "127.0.0.1", 0)
    try:
        tracker.begin(1000, 400)
        figures = httpx.get(f"http://127.0.0.1:{server.server_port}/progress", trust_env=False).json()
    finally:
        server.shutdown()
        server.server_close()
    assert figures["phase"] == "Downloading"
    assert (figures["downloadedBytes"], figures["totalBytes"]) == (400, 1000)
    assert figures["secondsRemaining"] is None


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    now = 0.0
    tracker = Tracker(clock=lambda: now)
    tracker.begin(10_000, 1000)
    for second in range(1, 61):
        now = float(second)
        tracker.sample(1000 + 100 * second if second < 30 else 4000)
    assert tracker.report()["bytesPerSecond"] == 0
    assert tracker.report()["secondsRemaining"] is None
    assert tracker.idle_seconds() == 30
    for second in range(61, 91):
        now = float(second)
        tracker.sample(4000 + 200 * (second - 60))
    assert tracker.report()["bytesPerSecond"] == 200
    assert tracker.report()["secondsRemaining"] == 0


def test_weights_in_other_formats_are_left_out_only_beside_safetensors() -> None:
    assert "*.bin" in left_out(["model.safetensors", "pytorch_model.bin"])
    assert left_out(["pytorch_model.bin", "original/consolidated.safetensors"]) == ["original/*"]


@pytest.mark.parametrize(
    ("error", "permanent", "words"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, "the disk is full"),
        (RuntimeError("write: No space left on device (os error 28)"), False, "the disk is full"),
        (ConnectionResetError("reset"), False, "cannot be reached"),
        (socket.gaierror(-2, "Name or service not known"), False, "cannot be reached"),
        (OSError("Consistency check failed"), False, "Consistency check"),
        (DamagedFileError("x has another checksum than at the hub"), False, "another checksum"),
        (ValueError("Repo id must be in the form"), True, "Repo id"),
        (ModuleNotFoundError("No module named 'modelscope'"), True, "modelscope"),
        (PermissionError(errno.EACCES, "Permission denied"), True, "Permission denied"),
    ],
)
def test_why_it_failed_and_whether_waiting_may_help(error: Exception, permanent: bool, words: str) -> None:
    found = explain(error)
    assert words in found.cause
    assert found.permanent is (permanent or "disk is full" in found.cause)


def test_the_cause_of_an_error_counts() -> None:
    outer = FileNotFoundError("cannot locate the files")
    outer.__cause__ = TimeoutError("timed out")
    assert explain(outer) == Failure("the hub cannot be reached: cannot locate the files", permanent=False)

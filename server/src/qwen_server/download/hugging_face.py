"""Downloads a repository of the Hugging Face Hub into its cache, where vLLM looks for it.

`huggingface_hub` continues a file only within one process: what a killed one has fetched of it is
lost, and that can be tens of gigabytes. It checks the size of a file, but not its checksum. So the
weights are fetched here, into files that the next process continues and that get their names only
when they are intact. The rest, small files and links, is left to `snapshot_download`.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url, http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

from qwen_server.download.files import DamagedFileError, RemoteFile, is_intact, is_left_out, left_out
from qwen_server.download.progress import Tracker

_AT_ONCE: Final = 4
_ABANDONED_SECONDS: Final = 3600.0
"""An unfinished file of huggingface_hub that is older than this belongs to nobody."""

_LARGEST: Final = constants.MAX_HTTP_DOWNLOAD_SIZE
"""The Hub serves larger files only in its own protocol, which huggingface_hub speaks."""

_log = logging.getLogger("qwen_server.download")


class HuggingFaceRepository:
    """A revision of a repository.

    `cache` is the folder that HF_HOME names by default, `endpoint` the address of the hub or of a
    mirror, by default HF_ENDPOINT. With `only`, nothing but files of these names is downloaded.
    """

    def __init__(
        self,
        repository: str,
        revision: str | None,
        tracker: Tracker,
        cache: Path | None = None,
        endpoint: str | None = None,
        *,
        only: Sequence[str] = (),
    ) -> None:
        self._repository = repository
        self._revision = revision or constants.DEFAULT_REVISION
        self._endpoint = endpoint
        self._tracker = tracker
        self._only = tuple(only)
        self._cache = (cache or Path(constants.HF_HUB_CACHE)).resolve()
        self._folder = self._cache / repo_folder_name(repo_id=repository, repo_type="model")
        self._blobs: dict[RemoteFile, Path] = {}
        self._intact: set[Path] = set()
        disable_progress_bars()

    def downloaded(self) -> int:
        """The bytes of the repository that are on the disk."""
        return sum(min(file.size, _size(blob) or _size(_partial(blob))) for file, blob in list(self._blobs.items()))

    def fetch(self) -> Path:
        """Downloads what is missing and checks everything. Returns the folder.

        Raises what the Hub's library raises, OSError, or DamagedFileError. It may be called again.
        """
        commit = self.find()
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._tidy()
            self._tracker.begin(sum(file.size for file in self._blobs), self.downloaded())
            self._check_space()
            self._fetch_weights(commit)
            patterns = left_out(file.path for file in self._blobs)
            snapshot = Path(
                snapshot_download(
                    self._repository,
                    revision=self._revision,
                    cache_dir=self._cache,
                    ignore_patterns=patterns,
                    allow_patterns=list(self._only) or None,
                    endpoint=self._endpoint,
                )
            )
            if snapshot.name != commit:
                raise OSError(f"the revision {self._revision} has moved from {commit} to {snapshot.name} meanwhile")
            self._tracker.phase = "Verifying"
            self._verify(snapshot)
            return snapshot

    def find(self) -> str:
        """Lists the files that vLLM needs. Returns the commit."""
        api = HfApi(endpoint=self._endpoint)
        commit = api.model_info(self._repository, revision=self._revision, timeout=30).sha
        if commit is None:
            raise OSError(f"the hub names no commit for the revision {self._revision}")
        entries = api.list_repo_tree(self._repository, recursive=True, revision=commit)
        files = [_remote(entry) for entry in entries if isinstance(entry, RepoFile)]
        patterns = left_out(file.path for file in files)
        if self._only:
            files = [file for file in files if file.path in self._only]
        needed = [file for file in files if not is_left_out(file.path, patterns)]
        self._blobs = {file: self._folder / "blobs" / (file.sha256 or file.git_sha1) for file in needed}
        return commit

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for another process that downloads the repository into the same cache."""
        with (self._folder / "qwen-download.lock").open("ab") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _tidy(self) -> None:
        """Removes what killed processes have left that nobody continues."""
        for path in (self._folder / "blobs").glob("*.incomplete"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def _check_space(self) -> None:
        missing = sum(file.size for file in self._blobs) - self.downloaded()
        usage = shutil.disk_usage(self._folder)
        if usage.total and missing > usage.free:
            figures = f"{_gb(missing)} are missing, {_gb(usage.free)} are free in {self._cache}"
            raise OSError(errno.ENOSPC, f"not enough free disk space: {figures}")

    def _fetch_weights(self, commit: str) -> None:
        """Fetches the large files. The first error ends all of them."""
        files = {file.sha256: file for file in self._blobs if file.sha256 and file.size <= _LARGEST}
        stop = threading.Event()
        with ThreadPoolExecutor(_AT_ONCE, "file") as threads:
            tasks = [threads.submit(self._fetch_one, file, commit, stop) for file in files.values()]
            wait(tasks, return_when=FIRST_EXCEPTION)
            stop.set()
            for task in tasks:
                task.cancel()
        _raise_first(tasks)

    def _fetch_one(self, file: RemoteFile, commit: str, stop: threading.Event) -> None:
        url = hf_hub_url(self._repository, file.path, revision=commit, endpoint=self._endpoint)
        # The name under which huggingface_hub will look for it.
        name = get_hf_file_metadata(url).etag or file.sha256
        blob = self._blobs[file] = self._folder / "blobs" / name
        if blob.exists():
            return
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(blob)
        if _size(partial) > file.size:
            partial.unlink()
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with _StoppableFile(partial, stop) as out:
            # Each try asks the Hub again where the file is: such addresses are valid for a short
            # time.
            http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=file.size)
        if not is_intact(partial, file, self._tracker.alive):
            partial.unlink()
            raise DamagedFileError(f"{file.path} has another checksum than at the hub")
        partial.replace(blob)
        self._intact.add(blob)

    def _verify(self, snapshot: Path) -> None:
        for file in self._blobs:
            path = snapshot / file.path
            blob = path.resolve()
            if blob in self._intact or is_intact(path, file, self._tracker.alive):
                self._intact.add(blob)
                continue
            blob.unlink()
            path.unlink(missing_ok=True)
            raise DamagedFileError(f"{file.path} has another checksum than at the hub")


class _StoppableFile(io.FileIO):
    """Appends to a file until another file has failed."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(path, "ab")
        self._stop = stop

    def write(self, data: Any) -> int:
        """Writes everything, or raises OSError."""
        if self._stop.is_set():
            raise InterruptedError("another file could not be downloaded")
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        return len(data)


def _raise_first(tasks: Sequence[Future[None]]) -> None:
    """Raises the error of a task, rather one of its own than that it was stopped."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, InterruptedError))
    if errors:
        raise errors[0]


def _remote(entry: RepoFile) -> RemoteFile:
    if entry.lfs is not None:
        return RemoteFile(entry.path, entry.lfs.size, sha256=entry.lfs.sha256)
    return RemoteFile(entry.path, entry.size, git_sha1=entry.blob_id)


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.partial")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"

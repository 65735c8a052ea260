"""Downloads a repository of ModelScope into its cache, where vLLM looks for it.

ModelScope's own library continues unfinished files. What it could not download it only logs, so
everything is checked afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen_server.download.files import DamagedFileError, RemoteFile, is_intact, is_left_out, left_out
from qwen_server.download.progress import Tracker

DEFAULT_REVISION: Final = "master"


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Whether models come from ModelScope: vLLM's own variable says it."""
    return environment.get("VLLM_USE_MODELSCOPE", "").lower() == "true"


class ModelScopeRepository:
    """A revision of a repository. `cache` is the folder that MODELSCOPE_CACHE names by default.

    With `only`, nothing but files of these names is downloaded.
    """

    def __init__(
        self,
        repository: str,
        revision: str | None,
        tracker: Tracker,
        cache: Path | None = None,
        *,
        only: Sequence[str] = (),
    ) -> None:
        self._only = tuple(only)
        self._repository = repository
        self._revision = revision or DEFAULT_REVISION
        self._tracker = tracker
        default = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope"
        self._cache = cache or Path(default)
        self._files: list[RemoteFile] = []

    def downloaded(self) -> int:
        """The bytes of the repository that are on the disk."""
        total = sum(file.size for file in self._files)
        return min(total, sum(_size(path) for path in self._cache.rglob("*") if self._belongs(path))) if total else 0

    def fetch(self) -> Path:
        """Downloads what is missing and checks everything. Returns the folder.

        Raises what ModelScope's library raises, OSError, or DamagedFileError. It may be called
        again.
        """
        # Imported here, because few need it and it takes a second.
        from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415

        patterns = self.find()
        self._tracker.begin(sum(file.size for file in self._files), self.downloaded())
        only = {"allow_patterns": list(self._only)} if self._only else {}
        folder = Path(snapshot_download(self._repository, revision=self._revision, ignore_patterns=patterns, **only))
        self._tracker.phase = "Verifying"
        self._verify(folder)
        return folder

    def find(self) -> list[str]:
        """Lists the files that vLLM needs. Returns the patterns of the others."""
        files = _files(self._repository, self._revision)
        patterns = left_out(file.path for file in files)
        if self._only:
            files = [file for file in files if file.path in self._only]
        self._files = [file for file in files if not is_left_out(file.path, patterns)]
        return patterns

    def _verify(self, folder: Path) -> None:
        for file in self._files:
            path = folder / file.path
            if not path.is_file():
                raise OSError(f"ModelScope's library did not download {file.path}")
            if not is_intact(path, file, self._tracker.alive):
                path.unlink()
                raise DamagedFileError(f"{file.path} has another checksum than at the hub")

    def _belongs(self, path: Path) -> bool:
        """Whether a file of the cache belongs to the repository, finished or not."""
        name = self._repository.rsplit("/", 1)[-1]
        place = path.relative_to(self._cache).as_posix()
        return (name in place or name.replace(".", "___") in place) and path.is_file() and not path.is_symlink()


def _files(repository: str, revision: str) -> list[RemoteFile]:
    """The files of a revision. Since modelscope 1.38 another package lists them with checksums."""
    try:
        from modelscope_hub import HubApi  # noqa: PLC0415 - few need it, and it takes a second
    except ImportError:
        return _files_by_older(repository, revision)
    return [
        RemoteFile(entry.path, entry.size, sha256=entry.sha256 or "")
        for entry in HubApi().list_repo_files(repository, "model", revision=revision, recursive=True)
        if entry.type != "tree"
    ]


def _files_by_older(repository: str, revision: str) -> list[RemoteFile]:
    from modelscope.hub.api import HubApi  # noqa: PLC0415 - as above

    return [
        RemoteFile(entry["Path"], int(entry.get("Size") or 0), sha256=entry.get("Sha256") or "")
        for entry in HubApi().get_model_files(repository, revision=revision, recursive=True)
        if entry.get("Type") != "tree"
    ]


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0

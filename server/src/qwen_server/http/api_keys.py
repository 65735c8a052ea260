"""Who may call the API: API keys from a mounted folder and from the environment."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from qwen_server.http.error_bodies import client_error

_log = logging.getLogger(__name__)

_MAX_FILES = 1024
_MAX_FILE_BYTES = 1 << 20
# While the kubelet swaps a mounted Secret's files, one look may fail; two in a row are no accident.
_FAILED_LOOKS = 2

RawHeaders = Iterable[tuple[bytes, bytes]]


class ApiKeys:
    """The keys of the environment and of a folder, whose files hold one key a line. Polled for changes.

    With neither, everybody may call. A folder without a key, or one that cannot be read, lets nobody in.
    """

    def __init__(self, folder: Path | None, given: SecretStr | None = None) -> None:
        self._folder = folder
        self._given = _digests(re.split(r"[,\s]+", given.get_secret_value())) if given is not None else frozenset()
        self.required = folder is not None or given is not None
        self._seen: object = None
        self._failures = 0
        self._keys: tuple[bytes, ...] = tuple(self._given)
        self.poll()
        if self._failures:
            self.poll()

    def poll(self) -> None:
        """Reads the folder again if one of its files has changed; a failure keeps the earlier keys for one look."""
        if self._folder is None:
            return
        try:
            files = _files_of(self._folder)
            seen = [(path.name, *_version(path.stat())) for path in files]
            if seen == self._seen:
                self._failures = 0
                return
            found = frozenset[bytes]().union(*map(_keys_of, files))
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._failures = 0
        self._seen = seen
        self._keys = tuple(self._given | found)
        _log.info("%d API key(s) read from %s", len(found), self._folder)
        if not self._keys:
            _log.error("there is no API key in %s: nobody is let in", self._folder)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == _FAILED_LOOKS:
            self._seen = None
            self._keys = tuple(self._given)
            _log.error("cannot read the API keys in %s, so none of them is accepted: %s", self._folder, error)

    def caller(self, headers: RawHeaders) -> str:
        """An opaque name of the caller, from `Authorization: Bearer` or `x-api-key`. Raises HttpError 401."""
        if not self.required:
            return ""
        caller = ""
        for token in _tokens(headers):
            digest = hashlib.sha256(token).digest()
            # Every key is compared, so that the time tells nothing about which of them is close.
            if sum([hmac.compare_digest(digest, key) for key in self._keys]):
                caller = digest.hex()
        if not caller:
            raise client_error(
                401, "a valid API key is required", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        return caller


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder, without those whose names begin with a dot: they are the kubelet's own."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    if len(files) > _MAX_FILES:
        raise ValueError(f"there are more than {_MAX_FILES} files")
    return files


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _keys_of(path: Path) -> frozenset[bytes]:
    """The keys of a file, one a line; blank lines and those that begin with # are none. Raises OSError, ValueError."""
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES} bytes")
    lines = (line.strip() for line in content.decode("utf-8-sig").splitlines())
    return _digests(line for line in lines if not line.startswith("#"))


def _digests(keys: Iterable[str]) -> frozenset[bytes]:
    return frozenset(hashlib.sha256(key.encode()).digest() for key in keys if key)


def _tokens(headers: RawHeaders) -> Iterable[bytes]:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()
        elif name == b"x-api-key":
            yield value.strip()

"""API keys and metrics tokens, read from a mounted folder and from the environment.

The file of a key names its tenant: those who have a key of one file share what they get.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import SecretStr

from qwen_server.control.shares import DEFAULT_TENANT
from qwen_server.http.error_bodies import client_error

_log = logging.getLogger(__name__)

_MAX_FILES = 1024
_MAX_FILE_BYTES = 1 << 20
# One read may fail while the kubelet swaps the files of a mounted Secret. Two in a row are an
# error.
_FAILED_READS = 2
_HASH = re.compile("sha256:([0-9a-f]{64})")

RawHeaders = Iterable[tuple[bytes, bytes]]


class ApiKeys:
    """The keys from the environment and from a folder whose files hold one key per line.

    Without a folder and a variable, no key is required. If a source is set but yields no key, every
    request for a protected path is rejected.
    """

    def __init__(self, folder: Path | None, given: SecretStr | None = None) -> None:
        self._folder = folder
        written = re.split(r"[,\s]+", given.get_secret_value()) if given is not None else ()
        self._given = dict.fromkeys(_digests(written), DEFAULT_TENANT)
        self.required = folder is not None or given is not None
        self._seen: object = None
        self._failures = 0
        self._keys: Mapping[bytes, str] = self._given  # the tenant of each
        self.poll()
        if self._failures:
            self.poll()

    def poll(self) -> None:
        """Reloads the folder if a file in it has changed. One failed read keeps the old keys."""
        if self._folder is None:
            return
        try:
            files = _files_of(self._folder)
            seen = [(path.name, *_version(path.stat())) for path in files]
            if seen == self._seen:
                self._failures = 0
                return
            # Of two files with the same key, the first one counts.
            found = {digest: path.name for path in reversed(files) for digest in _keys_of(path)}
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._failures = 0
        self._seen = seen
        self._keys = {**self._given, **found}
        _log.info("read %d API key(s) from %s", len(found), self._folder)
        if not self._keys:
            _log.error("no API key in %s, all requests are rejected: add a key, one per line", self._folder)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == _FAILED_READS:
            self._seen = None
            self._keys = self._given
            _log.error("cannot read the API keys in %s, none of them is accepted: %s", self._folder, error)

    def known(self, headers: RawHeaders) -> str:
        """Returns an opaque name for the caller, or an empty text without a key that is known."""
        caller = ""
        for token in _tokens(headers):
            digest = hashlib.sha256(token).digest()
            # Every key is compared, so that the time does not reveal how close a guess is.
            if sum([hmac.compare_digest(digest, key) for key in self._keys]):
                caller = digest.hex()
        return caller

    @property
    def tenants(self) -> frozenset[str]:
        """The names of all that have a key."""
        return frozenset(self._keys.values())

    def tenant_of(self, caller: str) -> str:
        """Returns the name of the tenant of a caller: that of the file with its key."""
        return self._keys.get(bytes.fromhex(caller), DEFAULT_TENANT)

    def caller(self, headers: RawHeaders) -> str:
        """Returns an opaque name for the caller, from `Authorization: Bearer` or `x-api-key`.

        Raises HttpError 401.
        """
        if not self.required:
            return ""
        caller = self.known(headers)
        if not caller:
            raise client_error(
                401, "a valid API key is required", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        return caller


def _files_of(folder: Path) -> list[Path]:
    """Returns the files in a folder. Names that begin with a dot are the kubelet's bookkeeping."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    if len(files) > _MAX_FILES:
        raise ValueError(f"more than {_MAX_FILES} files")
    return files


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _keys_of(path: Path) -> frozenset[bytes]:
    """Returns the digests of the keys in a file, one key per line, or the hash of one.

    Blank lines and lines that begin with # are skipped. Raises OSError and ValueError.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES} bytes")
    lines = (line.strip() for line in content.decode("utf-8-sig").splitlines())
    return _digests(line for line in lines if not line.startswith("#"))


def _digests(keys: Iterable[str]) -> frozenset[bytes]:
    return frozenset(_digest(key) for key in keys if key)


def _digest(key: str) -> bytes:
    """Returns the digest of a key. A key may be written as its hash, `sha256:HEX`."""
    written = _HASH.fullmatch(key)
    return bytes.fromhex(written[1]) if written else hashlib.sha256(key.encode()).digest()


def _tokens(headers: RawHeaders) -> Iterable[bytes]:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()
        elif name == b"x-api-key":
            yield value.strip()

"""The file that declares LoRA adapters, and where an adapter comes from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qwen_server.config.values import is_adapter_name

_log = logging.getLogger(__name__)
_HUBS: Final = ("huggingface", "modelscope")
_MAX_FILE_BYTES: Final = 1 << 20
_LABEL: Final = 200
_FIELDS: Final = frozenset({"name", "path", "repository", "revision", "hub"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where an adapter comes from: a folder, or a revision of a repository of a hub."""

    path: Path | None = None
    repository: str = ""
    revision: str | None = None
    hub: str = "huggingface"

    @property
    def text(self) -> str:
        """The `root` of the adapter in the list of the models."""
        return str(self.path) if self.path is not None else self.repository

    @property
    def label(self) -> str:
        """The end of the same with the revision, as the metrics show it."""
        return (self.text if self.revision is None else f"{self.text}@{self.revision}")[-_LABEL:]


class AdaptersFile:
    """The adapters that a JSON file declares, by name. `poll` reads it again when it has changed.

    An invalid file is logged once and changes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.declared: Mapping[str, Source] = {}

    def poll(self) -> None:
        """Reads the file if it has changed. A file that is gone changes nothing either."""
        try:
            stat = self._path.stat()
        except OSError:
            return
        seen = stat.st_mtime_ns, stat.st_ino, stat.st_size
        if seen == self._seen:
            return
        self._seen = seen
        try:
            _require(stat.st_size <= _MAX_FILE_BYTES, f"larger than {_MAX_FILE_BYTES} bytes")
            self.declared = parse_declared(json.loads(self._path.read_bytes()))
            _log.info("read %d adapter(s) from %s", len(self.declared), self._path)
        except (OSError, ValueError, RecursionError) as error:
            _log.error("invalid adapters in %s, keeping the previous ones: %s", self._path, error)


def parse_declared(document: object) -> dict[str, Source]:
    """The adapters of a parsed file, `{"adapters": [{"name", "path"}, ...]}`.

    Instead of a path an adapter may have a repository, with a revision and a hub (huggingface or
    modelscope). Raises ValueError with the place of the error.
    """
    entries = document.get("adapters") if isinstance(document, dict) else None
    _require(isinstance(entries, list), 'expected an object with a list "adapters"')
    found: dict[str, Source] = {}
    for index, entry in enumerate(entries or ()):
        place = f"adapters[{index}]"
        texts = isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
        _require(texts, f"{place}: expected an object with texts")
        unknown = sorted(entry.keys() - _FIELDS)
        _require(not unknown, f"{place}: unknown field {unknown[:1]}")
        _require(all(map(_is_utf_8, entry.values())), f"{place}: an unpaired surrogate is not a character")
        name = entry.get("name", "")
        _require(is_adapter_name(name) and name not in found, f"{place}.name: expected a name that no other has")
        found[name] = _source(entry, place)
    return found


def _source(entry: Mapping[str, str], place: str) -> Source:
    _require(("path" in entry) != ("repository" in entry), f"{place}: expected either a path or a repository")
    if "path" in entry:
        path = Path(entry["path"])
        _require(path.is_absolute(), f"{place}.path: expected an absolute path")
        return Source(path)
    hub = entry.get("hub", _HUBS[0])
    _require(hub in _HUBS, f"{place}.hub: expected {' or '.join(_HUBS)}")
    return Source(repository=entry["repository"], revision=entry.get("revision"), hub=hub)


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ValueError(text)

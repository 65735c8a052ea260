"""Reads the chat template of --chat-template. The engine checks that it can render."""

from __future__ import annotations

from pathlib import Path

from qwen_server.config.settings import ConfigurationError, Settings

_MAX_BYTES = 1 << 20
# Every template has one of these, and hardly any path, as in vLLM.
_OF_TEMPLATES = frozenset("{}\n")


def read_chat_template(settings: Settings) -> str | None:
    """Returns the template: the text of the flag, or of the file that it names; None without it.

    Raises ConfigurationError if there is no such file, or if it is too large or no text.
    """
    given = settings.chat_template
    if given is None:
        return None
    try:
        raw = given.encode() if _OF_TEMPLATES & set(given) else _read(Path(given))
        template = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"--chat-template {given}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--chat-template {given}: the file is not UTF-8") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigurationError(f"--chat-template: the template is larger than {_MAX_BYTES} bytes")
    if not template.strip():
        raise ConfigurationError(f"--chat-template {given}: the file is empty")
    return template


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)

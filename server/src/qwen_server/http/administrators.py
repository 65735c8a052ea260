"""Requires the key of an administrator on the paths that change how the server runs."""

from __future__ import annotations

from pathlib import Path

from qwen_server.http.api_keys import ApiKeys, RawHeaders
from qwen_server.http.error_bodies import client_error


class Administrators:
    """The keys of the administrators, from a folder in the form of the API keys' folder.

    Without a folder the paths of administrators do not exist: the application leaves them out.
    """

    def __init__(self, folder: Path | None, keys: ApiKeys) -> None:
        self._admins = ApiKeys(folder)
        self._keys = keys
        self.enabled = folder is not None
        self.poll = self._admins.poll

    def known(self, headers: RawHeaders) -> str:
        """Returns an opaque name for the administrator, or an empty text if it is none."""
        return self._admins.known(headers) if self.enabled else ""

    def demand(self, headers: RawHeaders) -> str:
        """Returns an opaque name for the administrator who asks.

        Raises HttpError 403 if the key is an API key and not an administrator's, and 401 without a
        key that is known.
        """
        if self.enabled and self._keys.required and self._keys.known(headers) and not self._admins.known(headers):
            raise client_error(403, "this path requires the key of an administrator", code="admin_key_required")
        return self._admins.caller(headers)

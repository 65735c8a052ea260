"""What `helm test` runs in a pod with the operator's image: it asks the operator, then a service.

The environment has the operator's URL and the namespaces that it serves, separated by commas. It
uses only the standard library and the pod's ServiceAccount, which may list QwenServices.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACCOUNT = Path(os.environ.get("ACCOUNT_FOLDER", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = os.environ.get("API_URL", "https://kubernetes.default.svc")
PATIENCE = float(os.environ.get("PATIENCE_SECONDS", "60"))
QUESTION = "请分类这条新闻：央行宣布降息25个基点"


def say(text: str) -> None:
    """Writes a line into the pod's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ask_operator(url: str) -> None:
    """Waits until the operator answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            for path in ("/healthz", "/readyz", "/metrics"):
                with urllib.request.urlopen(url + path, timeout=5) as answer:  # noqa: S310 - http, of the chart
                    say(f"{path} {answer.status}")
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} does not answer: {error}") from error
            time.sleep(1)
        else:
            return


def services(namespaces: list[str]) -> Iterator[dict[str, Any]]:
    """The QwenServices that the operator serves."""
    token = ACCOUNT / "token"
    headers = {"Authorization": f"Bearer {token.read_text(encoding='utf-8')}"} if token.is_file() else {}
    authority = ACCOUNT / "ca.crt"
    trusted = ssl.create_default_context(cafile=str(authority)) if authority.is_file() else None
    folders = [f"namespaces/{namespace}/" for namespace in namespaces] or [""]
    for folder in folders:
        url = f"{API}/apis/qwen-vllm.io/v1alpha1/{folder}qwenservices?limit=500"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - https, in the cluster
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:  # noqa: S310 - the same
                yield from json.load(answer)["items"]
        except OSError as error:
            raise SystemExit(f"the operator's account cannot list QwenServices: {error}") from error


def can_be_asked(service: dict[str, Any]) -> bool:
    """Whether a service is ready and answers a pod of this namespace without a key."""
    spec, status = service["spec"], service.get("status") or {}
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ())
    keys = (spec.get("auth") or {}).get("apiKeySecretRef")
    closed = (spec.get("networkPolicy") or {}).get("enabled")
    return bool(ready and status.get("url") and not keys and not closed)


def ask(service: dict[str, Any]) -> bool:
    """Asks for the category of a headline. Returns False if the service wants a key or is busy."""
    name = "{namespace}/{name}".format_map(service["metadata"])
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32}
    url = f"{service['status']['url']}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - http, of the status
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - the same
            text = json.load(answer)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 429, 503):
            say(f"{name} answers {error.code}: it wants a key, or it is busy")
            return False
        raise SystemExit(f"{name} answers {error.code}: {error.read(500).decode(errors='replace')}") from error
    except OSError as error:
        raise SystemExit(f"{name} does not answer at {url}: {error}") from error
    say(f"{name} answers: {text}")
    return True


def main() -> None:
    """Fails with a message that says what does not work."""
    ask_operator(os.environ["OPERATOR_URL"])
    namespaces = [name for name in os.environ.get("WATCH_NAMESPACES", "").split(",") if name]
    candidates = [service for service in services(namespaces) if can_be_asked(service)]
    if not any(map(ask, candidates)):
        say("no QwenService was asked: none is ready and answers without a key")


if __name__ == "__main__":
    main()

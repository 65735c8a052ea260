"""What `helm test` runs in a pod with the operator's image: it asks the operator, then a service.

The environment has the operator's URL and the namespaces that it serves, separated by commas. It
uses only the standard library and the pod's ServiceAccount, which may list QwenServices.

Authors of QwenServices are not trusted with the release: what they write, and what their servers
answer, neither fills the memory of this pod nor keeps it from its end, and a service that fails
does not fail the test while another one answers.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCOUNT = Path(os.environ.get("ACCOUNT_FOLDER", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = os.environ.get("API_URL", "https://kubernetes.default.svc")
PATIENCE = float(os.environ.get("PATIENCE_SECONDS", "60"))
"""Seconds for the operator, and for each service. All services have twice as long: Helm itself
waits for five minutes."""
QUESTION = "请分类这条新闻：央行宣布降息25个基点"
TOKENS = 32
PAGE = 5
"""Services that are read at once. Each may be as large as an object of the API can be."""
MAX_ANSWER = 64 * 1024
SHOWN = 5
"""Failures that are shown at the end."""


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
    folders = [f"namespaces/{namespace}/" for namespace in namespaces] or [""]
    for folder in folders:
        following = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": following} if following else {})}
            page = read_page(f"{API}/apis/qwen-vllm.io/v1alpha1/{folder}qwenservices?{urllib.parse.urlencode(query)}")
            yield from page["items"]
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                break


def read_page(url: str) -> dict[str, Any]:
    """A page of a list of the API server."""
    token = ACCOUNT / "token"
    headers = {"Authorization": f"Bearer {token.read_text(encoding='utf-8')}"} if token.is_file() else {}
    authority = ACCOUNT / "ca.crt"
    trusted = ssl.create_default_context(cafile=str(authority)) if authority.is_file() else None
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - https, in the cluster
    try:
        with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:  # noqa: S310 - the same
            page: dict[str, Any] = json.load(answer)
    except OSError as error:
        raise SystemExit(f"the operator's account cannot list QwenServices: {error}") from error
    return page


def can_be_asked(service: dict[str, Any]) -> bool:
    """Whether a service is ready and answers a pod of this namespace without a key."""
    spec, status = service["spec"], service.get("status") or {}
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ())
    keys = (spec.get("auth") or {}).get("apiKeySecretRef")
    closed = (spec.get("networkPolicy") or {}).get("enabled")
    return bool(ready and status.get("url") and not keys and not closed)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block after so many seconds, however slowly an answer comes."""

    def end(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ask(service: dict[str, Any], seconds: float) -> tuple[bool, str]:
    """Asks for the category of a headline.

    Returns whether the service has answered, and what is wrong with it if it has not: nothing if it
    wants a key or is busy.
    """
    name = "{namespace}/{name}".format_map(service["metadata"])
    most = (service["spec"].get("limits") or {}).get("maxTokens", TOKENS)
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": min(TOKENS, most)}
    url = f"{service['status']['url']}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - http, of the status
    try:
        with at_most(seconds), urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - the same
            text = json.loads(answer.read(MAX_ANSWER))["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 429, 503):
            say(f"{name} answers {error.code}: it wants a key, or it is busy")
            return False, ""
        return False, f"{name} answers {error.code}: {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return False, f"{name} does not answer at {url}: {error}"
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        return False, f"{name} gives no answer of a chat at {url}: {error!r}"
    say(f"{name} answers: {text!s:.200}")
    return True, ""


def ask_services(namespaces: list[str]) -> None:
    """Asks one service after the other until one answers. Fails if all that could be asked fail."""
    deadline = time.monotonic() + 2 * PATIENCE
    failures: list[str] = []
    for service in services(namespaces):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if not can_be_asked(service):
            continue
        answered, failure = ask(service, min(PATIENCE, left))
        if answered:
            return
        if failure:
            say(failure)
            failures.append(failure)
    if failures:
        more = f"\nand {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise SystemExit("no QwenService answers:\n" + "\n".join(failures[:SHOWN]) + more)
    say("no QwenService was asked: none is ready and answers without a key")


def main() -> None:
    """Fails with a message that says what does not work."""
    ask_operator(os.environ["OPERATOR_URL"])
    ask_services([name for name in os.environ.get("WATCH_NAMESPACES", "").split(",") if name])


if __name__ == "__main__":
    main()

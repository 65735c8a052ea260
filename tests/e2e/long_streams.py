"""Streams long answers from one server, all at the same time, and says what became of each.

`python -m tests.e2e.long_streams --url ... --count 4 --tokens 2000`: for each stream, a JSON line
with its number goes to standard output when it has begun. Another one follows at its end: whether
it came to its regular end, how many tokens the answer has, the longest time between two of its
events in seconds, and the error if there was one.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

SILENCE_SECONDS = 300
"""Seconds without an event or a comment after which a stream has failed."""
Report = Callable[[dict[str, Any]], None]


def follow(url: str, number: int, tokens: int, report: Report) -> None:
    """Streams one answer, whose prompt has the number in it."""
    body = {"prompt": f"请分类第{number}条：", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    end: dict[str, Any] = {"stream": number, "done": False, "tokens": 0, "pause": 0.0, "error": ""}
    events, before = 0, 0.0
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=SILENCE_SECONDS) as response:
            if response.status_code != 200:
                end["error"] = response.read().decode()
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue  # the comments that keep the connection open, too
                now = time.monotonic()
                before, end["pause"] = now, max(end["pause"], now - (before or now))
                events += 1
                if events == 2:
                    report({"stream": number, "begun": True})
                take(line.removeprefix("data: "), end)
    except httpx.HTTPError as error:
        end["error"] = repr(error)
    report(end)


def take(data: str, end: dict[str, Any]) -> None:
    """Notes what an event says of the end of its stream."""
    if data == "[DONE]":
        end["done"] = True
        return
    event = json.loads(data)
    end["error"] = event.get("error") or end["error"]
    end["tokens"] = (event.get("usage") or {}).get("completion_tokens", end["tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=4, help="streams at a time")
    parser.add_argument("--tokens", type=int, default=2000, help="tokens of each answer")
    chosen = parser.parse_args()
    output = threading.Lock()

    def report(line: dict[str, Any]) -> None:
        with output:
            print(json.dumps(line), flush=True)

    with ThreadPoolExecutor(chosen.count) as pool:
        for number in range(chosen.count):
            pool.submit(follow, chosen.url, number, chosen.tokens, report)


if __name__ == "__main__":
    main()

"""Sends load to a Service from inside the cluster's network, in an open loop.

`python -m tests.e2e.keep_alive_load --url ... --rate 5`: chat requests become due at a steady rate,
whether or not earlier ones have been answered, so that a pod that hangs hides no request. They go
over connections that are kept and used again, as by a client with a connection pool. For each
request, a JSON line goes to standard output: when it was due and when it ended (seconds since the
epoch), which pod the connection led to, the HTTP status, and the error if there was no answer.
SIGTERM stops the load after the requests in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import queue
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

QUESTION = "请分类这条新闻：央行宣布降息25个基点"
AT_ONCE = 256
"""So many requests may wait for an answer. With more, they become due late."""


def pod_behind(sock_port: int) -> str:
    """The pod that kube-proxy chose for the connection from this local port (by conntrack)."""
    command = ["conntrack", "-L", "-p", "tcp", "--orig-port-src", str(sock_port)]
    table = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    for line in table.splitlines():
        sources = re.findall(r"src=(\S+) dst=(\S+) sport=(\d+)", line)
        if len(sources) == 2 and sources[0][2] == str(sock_port):
            return str(sources[1][0])
    return ""


class Connection(http.client.HTTPConnection):
    """A connection, and the pod that it leads to."""

    pod = ""

    def was_dropped(self) -> bool:
        """Whether the server has closed it, as connection pools look before they use one again."""
        return self.sock is None or bool(select.select([self.sock], [], [], 0)[0])


class Client:
    """A client with a pool of connections. `pod_of` finds the pod behind a local port.

    timeout: seconds until a request counts as failed.
    """

    def __init__(
        self, url: str, text: str = QUESTION, timeout: float = 10.0, pod_of: Callable[[int], str] = pod_behind
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 16}).encode()
        self._timeout = timeout
        self._pod_of = pod_of
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()

    def ask(self, due: float) -> dict[str, Any]:
        """Sends a request that was due at a time, and returns what became of it."""
        connection: Connection | None = None
        status, error, pod = 0, "", ""
        try:
            connection = self._connection()
            pod = connection.pod
            connection.request("POST", "/v1/chat/completions", self._body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as caught:
            error = f"{type(caught).__name__}: {caught}"
        if connection is not None and status == 200:
            self._idle.put(connection)
        elif connection is not None:
            connection.close()
        return {"start": due, "end": time.time(), "pod": pod, "status": status, "error": error}

    def _connection(self) -> Connection:
        with contextlib.suppress(queue.Empty):
            while True:
                connection = self._idle.get_nowait()
                if not connection.was_dropped():
                    return connection
                connection.close()
        connection = Connection(self._host, self._port, timeout=self._timeout)
        connection.connect()
        connection.pod = self._pod_of(connection.sock.getsockname()[1])
        return connection


def run(client: Client, rate: float, seconds: float, stop: threading.Event, report: Callable[[Any], None]) -> None:
    """Sends `rate` requests a second until `stop` is set or the time is over. Reports each."""
    began = time.time()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if stop.wait(max(0.0, due - time.time())):
                return
            threads.submit(_ask, client, due, report)


def _ask(client: Client, due: float, report: Callable[[Any], None]) -> None:
    report(client.ask(due))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, default=5, help="requests a second")
    parser.add_argument("--text", default=QUESTION, help="what the requests ask")
    parser.add_argument("--timeout", type=float, default=30, help="seconds until a request counts as failed")
    parser.add_argument("--seconds", type=float, default=600, help="end by itself after so long")
    chosen = parser.parse_args()
    stop, output = threading.Event(), threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def report(line: Any) -> None:
        with output:
            print(json.dumps(line), flush=True)

    run(Client(chosen.url, chosen.text, chosen.timeout), chosen.rate, chosen.seconds, stop, report)


if __name__ == "__main__":
    main()

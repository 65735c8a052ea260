"""Sends keep-alive load to a Service from inside the cluster's network.

`python -m tests.e2e.keep_alive_load --url ... --workers 4`: each worker holds one connection, as a
client with a connection pool does, and sends one chat request after another. For each request, a
JSON line goes to standard output: when it started and ended (seconds since the epoch), which pod
the connection led to, the HTTP status, and the error if there was no answer. SIGTERM stops the load
after the requests in flight.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import threading
import time
from urllib.parse import urlsplit

QUESTION = "请分类这条新闻：央行宣布降息25个基点"

stop = threading.Event()
output = threading.Lock()


def pod_behind(sock_port: int) -> str:
    """The pod that kube-proxy chose for the connection from this local port (by conntrack)."""
    command = ["conntrack", "-L", "-p", "tcp", "--orig-port-src", str(sock_port)]
    table = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    for line in table.splitlines():
        sources = re.findall(r"src=(\S+) dst=(\S+) sport=(\d+)", line)
        if len(sources) == 2 and sources[0][2] == str(sock_port):
            return str(sources[1][0])
    return ""


def work(host: str, port: int, timeout: float, body: bytes) -> None:
    connection: http.client.HTTPConnection | None = None
    pod = ""
    while not stop.is_set():
        start = time.time()
        status, error = 0, ""
        try:
            if connection is None or connection.sock is None:
                connection = http.client.HTTPConnection(host, port, timeout=timeout)
                connection.connect()
                pod = pod_behind(connection.sock.getsockname()[1])
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as caught:
            error = f"{type(caught).__name__}: {caught}"
        line = {"start": start, "end": time.time(), "pod": pod, "status": status, "error": error}
        with output:
            print(json.dumps(line), flush=True)
        if (error or status != 200) and connection is not None:
            connection.close()
            connection = None
        # A pace, not a wait: two small pods should be busy but not saturated.
        stop.wait(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--text", default=QUESTION, help="what the requests ask")
    parser.add_argument("--timeout", type=float, default=10, help="seconds until a request counts as failed")
    parser.add_argument("--seconds", type=float, default=600, help="end by itself after so long")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    url = urlsplit(chosen.url)
    body = json.dumps({"messages": [{"role": "user", "content": chosen.text}], "max_tokens": 16}).encode()
    arguments = (url.hostname, url.port, chosen.timeout, body)
    threads = [threading.Thread(target=work, args=arguments) for _ in range(chosen.workers)]
    for thread in threads:
        thread.start()
    stop.wait(chosen.seconds)
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

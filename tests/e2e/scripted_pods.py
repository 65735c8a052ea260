"""Pods of the real server with a scripted engine, for failures that need many pods or are rare.

The pods run the server's image. A ConfigMap adds `tests.scripted_engine`, which takes the place of
vLLM's engine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output
from tests.e2e import pod_processes
from tests.e2e.kubectl import Kubectl, Object
from tests.e2e.pages import page, pod_url
from tests.e2e.services import qwen_service

SCRIPTS = "scripted-engine"
_FILES = ("scripted_engine.py", "scripted_answers.py", "scripted_metrics.py", "scripted_gpu.py")
_PYTHON = ("python", "-m")
_ENGINE = "tests.scripted_engine"
_METRICS = "tests.scripted_metrics"
_METRICS_FILE = "tmp/metrics"
_GPU = "tests.scripted_gpu"
_GPU_FILE = "tmp/gpu.json"
# Sends chats to one server and prints the statuses of the answers.
_CHAT = """\
import json, os, urllib.error, urllib.request
statuses = []
for _ in range(int(os.environ["COUNT"])):
    body = {"messages": [{"role": "user", "content": os.environ["TEXT"]}], "max_tokens": 16}
    request = urllib.request.Request(os.environ["URL"], json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=int(os.environ["SECONDS"])) as answer:
            statuses.append(answer.status)
    except urllib.error.HTTPError as error:
        statuses.append(error.code)
print(json.dumps(statuses))
"""


def install(kubectl: Kubectl) -> None:
    """Puts the scripted engine into the namespace, where its services expect it."""
    data = {name: (ROOT / "tests" / name).read_text(encoding="utf-8") for name in _FILES}
    kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SCRIPTS}, "data": data})


def scripted_service(
    name: str,
    replicas: int = 1,
    *,
    start_seconds: float = 0.0,
    start_failure: str = "",
    replaceable_metrics: bool = False,
    scripted_gpu: bool = False,
    **sections: Any,
) -> dict[str, Any]:
    """A QwenService whose engine is scripted: it starts within `start_seconds`, or fails then.

    With `replaceable_metrics`, `replace_metrics` works on its pods, and with `scripted_gpu`,
    `show_gpu`.
    """
    program = _METRICS if replaceable_metrics else _GPU if scripted_gpu else _ENGINE
    container = {
        "name": "server",
        "command": ["tini", "--", *_PYTHON, program],
        "env": [
            {"name": "PYTHONPATH", "value": "/scripts:/opt/qwen/src"},
            {"name": "SCRIPTED_START_SECONDS", "value": str(start_seconds)},
            {"name": "SCRIPTED_METRICS", "value": f"/{_METRICS_FILE}"},
            {"name": "SCRIPTED_GPU", "value": f"/{_GPU_FILE}"},
            *([{"name": "SCRIPTED_START_FAILURE", "value": start_failure}] if start_failure else []),
        ],
        "volumeMounts": [{"name": SCRIPTS, "mountPath": "/scripts/tests", "readOnly": True}],
    }
    volume = {"name": SCRIPTS, "configMap": {"name": SCRIPTS}}
    small = {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"memory": "1Gi"}}
    template = {"spec": {"containers": [container], "volumes": [volume]}}
    # The containers of these pods end with their engines.
    engine = {"device": "cpu", "restarts": 0}
    return qwen_service(name, replicas, **{"engine": engine, "resources": small, "podTemplate": template, **sections})


def servers(pod: Object) -> list[int]:
    """The server's process in the pod, as the node sees it."""
    programs = ("\0".join((*_PYTHON, module)) for module in (_ENGINE, _METRICS, _GPU))
    return [pid for program in programs for pid in pod_processes.pids(pod, program)]


def toggle_hang(pod: Object) -> None:
    """Hangs the engine of a pod, or lets it go on."""
    pod_processes.send(signal.SIGUSR1, servers(pod))


def metrics(cluster: Settings, pod: Object) -> bytes:
    """The answer of one pod to a request for its metrics."""
    return page(cluster, f"{pod_url(pod)}/api/v1/metrics").encode()


def replace_metrics(pod: Object, content: bytes | None) -> None:
    """Lets a pod answer requests for its metrics so; None means with the real ones."""
    file = _file(pod, _METRICS_FILE)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def show_gpu(pod: Object, **figures: Any) -> None:
    """Gives the GPU of a pod these figures, which are fields of a `GpuReading`."""
    _file(pod, _GPU_FILE).write_text(json.dumps(figures), encoding="utf-8")


def _file(pod: Object, name: str) -> Path:
    [server] = servers(pod)
    return Path("/proc", str(server), "root", name)


def chat(cluster: Settings, pod: Object, text: str, count: int = 1, *, seconds: int = 60) -> list[int]:
    """Sends chats to one pod, one after another. Returns the statuses of the answers.

    Each has so many seconds to be answered, and all of them have five minutes.
    """
    url = f"{pod_url(pod)}/v1/chat/completions"
    env = {**os.environ, "URL": url, "TEXT": text, "COUNT": str(count), "SECONDS": str(seconds)}
    found: list[int] = json.loads(output([*cluster.nsenter(), sys.executable, "-c", _CHAT], env=env, timeout=300))
    return found

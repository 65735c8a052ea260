"""The operator's settings: flags, or environment variables `QWEN_OPERATOR_<NAME>`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_PREFIX: Final = "QWEN_OPERATOR_"
_SHORTEST_KEY: Final = 16


class SettingsError(Exception):
    """A setting is missing or not valid. The message names it."""


@dataclass(frozen=True)
class Settings:
    """The settings of an operator process.

    An empty image means that QwenServices for this device must name their own. Empty
    `watch_namespaces` means all namespaces. An empty `runbook_base_url` means the runbooks of the
    repository. The first of the `metrics_keys` is used to read metrics that are protected.
    `pod_template_allow` holds paths of a pod template, `*` for all of them.
    """

    server_image_cpu: str
    server_image_cuda: str
    watch_namespaces: tuple[str, ...]
    namespace: str
    pod_name: str
    leader_election: bool
    lease_name: str
    metrics_port: int
    log_level: str
    log_format: Literal["json", "text"]
    resync_seconds: float
    monitoring_labels: Mapping[str, str]
    runbook_base_url: str
    metrics_keys: tuple[str, ...] = field(repr=False)
    server_pull_secrets: tuple[str, ...] = ()
    pod_template_allow: tuple[str, ...] = ("*",)

    @property
    def server_images(self) -> Mapping[str, str]:
        """The server's image by device."""
        return {"cpu": self.server_image_cpu, "cuda": self.server_image_cuda}


def _switch(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _paths(text: str) -> tuple[str, ...]:
    paths = () if text.strip().lower() == "none" else _names(text)
    for path in paths:
        if path != "*" and path.partition(".")[0] not in ("metadata", "spec"):
            raise argparse.ArgumentTypeError(f"{path!r} does not begin with metadata or spec")
    return paths


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port number")
    return port


def _positive(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def _labels(text: str) -> Mapping[str, str]:
    pairs = [pair.partition("=") for pair in _names(text)]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of labels such as a=b,c=d")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _keys(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found or min(map(len, found)) < _SHORTEST_KEY:
        raise argparse.ArgumentTypeError(f"{path} needs keys of at least {_SHORTEST_KEY} characters, one per line")
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise SettingsError(message)


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="qwen-operator", description="The Kubernetes operator for QwenServices.")

    def add(name: str, default: str | None, text: str, **options: object) -> None:
        variable = _PREFIX + name.replace("-", "_").upper()
        parser.add_argument(
            f"--{name}",
            default=env.get(variable) or default,
            help=f"{text} [{variable}]",
            **options,  # type: ignore[arg-type]
        )

    add("server-image-cpu", None, "image of the server for device cpu; empty if QwenServices name their own")
    add("server-image-cuda", None, "image of the server for device cuda; empty if QwenServices name their own")
    add("server-pull-secrets", "", "comma-separated Secrets for pulling the server's images", type=_names)
    add("pod-template-allow", "*", "what podTemplate may set: *, none, or comma-separated paths", type=_paths)
    add("watch-namespaces", "", "comma-separated namespaces to watch; empty means all", type=_names)
    add("namespace", "default", "namespace of the operator and of its Lease")
    add("pod-name", socket.gethostname(), "identity for the Lease")
    add("leader-election", "true", "whether to elect a leader among several replicas", type=_switch)
    add("lease-name", "qwen-operator", "name of the Lease")
    add("metrics-port", "8080", "port of /metrics, /healthz and /readyz; 0 means any free port", type=_port)
    add("log-level", "info", "minimum level of log messages", type=str.lower, choices=LOG_LEVELS)
    add("log-format", "json", "format of log lines", choices=("json", "text"))
    add("resync-seconds", "60", "how often every service is reconciled without a change", type=_positive)
    add("monitoring-labels", "", "labels of all ServiceMonitors and PrometheusRules, such as a=b,c=d", type=_labels)
    add("runbook-base-url", "", "URL of the folder of runbooks, for alerts; empty means the repository's")
    add("metrics-key-file", "", "file of keys for protected metrics, one per line", type=_keys, dest="metrics_keys")
    return parser


def read_settings(arguments: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Settings:
    """The settings from flags and the environment; flags win. Raises `SettingsError`."""
    given = os.environ if env is None else env
    values = _parser(given).parse_args(list(arguments))
    # argparse checks `choices` only for flags, not for defaults from the environment.

    if values.log_format not in ("json", "text"):
        raise SettingsError(f"log-format: {values.log_format!r} is neither json nor text")
    if values.log_level not in LOG_LEVELS:
        raise SettingsError(f"log-level: {values.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    for device in ("cpu", "cuda"):
        if getattr(values, f"server_image_{device}") is None:
            variable = f"{_PREFIX}SERVER_IMAGE_{device.upper()}"
            if variable not in given:
                raise SettingsError(f"server-image-{device} is not set ({variable}); it may be empty")
            setattr(values, f"server_image_{device}", "")
    return Settings(**vars(values))

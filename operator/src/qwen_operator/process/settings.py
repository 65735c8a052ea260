"""The operator's settings: flags, each of which is also an environment variable `QWEN_OPERATOR_<NAME>`."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_PREFIX: Final = "QWEN_OPERATOR_"


class SettingsError(Exception):
    """A setting that makes no sense; the message names it."""


@dataclass(frozen=True)
class Settings:
    """How one operator process runs. An empty `watch_namespaces` means the whole cluster."""

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise SettingsError(message)


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="qwen-operator", description="Runs QwenServices: models behind vLLM, on Kubernetes.")

    def add(name: str, default: str, text: str, **options: object) -> None:
        variable = _PREFIX + name.replace("-", "_").upper()
        parser.add_argument(
            f"--{name}",
            default=env.get(variable) or default,
            help=f"{text} [{variable}]",
            **options,  # type: ignore[arg-type]
        )

    add("server-image-cpu", "", "the server's image for device cpu")
    add("server-image-cuda", "", "the server's image for device cuda")
    add("watch-namespaces", "", "namespaces to watch, with commas between; empty: all", type=_names)
    add("namespace", "default", "the operator's own namespace, where its Lease lies")
    add("pod-name", socket.gethostname(), "who holds the Lease")
    add("leader-election", "true", "whether replicas agree on one that acts", type=_switch)
    add("lease-name", "qwen-operator", "the Lease's name")
    add("metrics-port", "8080", "port of /metrics, /healthz and /readyz; 0: any free one", type=_port)
    add("log-level", "info", "the least level that is logged", type=str.lower, choices=LOG_LEVELS)
    add("log-format", "json", "how log lines look", choices=("json", "text"))
    add("resync-seconds", "60", "how often every service is looked at without a cause", type=_positive)
    return parser


def read_settings(arguments: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags, which win, and the environment; raises `SettingsError`."""
    values = _parser(os.environ if env is None else env).parse_args(list(arguments))
    # argparse checks `choices` of flags only, not of defaults from the environment
    if values.log_format not in ("json", "text"):
        raise SettingsError(f"log-format: {values.log_format!r} is neither json nor text")
    if values.log_level not in LOG_LEVELS:
        raise SettingsError(f"log-level: {values.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    missing = [device for device in ("cpu", "cuda") if not getattr(values, f"server_image_{device}")]
    if missing:
        raise SettingsError(f"server-image-{missing[0]} is not set ({_PREFIX}SERVER_IMAGE_{missing[0].upper()})")
    return Settings(**vars(values))

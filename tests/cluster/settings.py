"""Paths, names and addresses of the cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.console import Problem

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES_VERSION = "1.34.4"
NODE = "node1"
POD_CIDR = "10.244.0.0/16"
NODE_POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
REGISTRY = "localhost:5000"
PAUSE_IMAGE = f"{REGISTRY}/pause:1"
BELIEVED_GPUS = 4


def cache_dir() -> Path:
    """The user's cache, which can always be rebuilt."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "qwen-vllm"


@dataclass(frozen=True)
class Settings:
    """One cluster. A second one on the machine needs another name and another /24."""

    name: str
    subnet: str
    cache: Path

    @classmethod
    def from_env(cls) -> Settings:
        """Read QWEN_CLUSTER_NAME (default `qwen`) and QWEN_CLUSTER_SUBNET (`192.168.250`)."""
        name = os.environ.get("QWEN_CLUSTER_NAME", "qwen")
        subnet = os.environ.get("QWEN_CLUSTER_SUBNET", "192.168.250")
        if not (name.isalnum() and name.islower() and len(name) <= 12):
            raise Problem(f"QWEN_CLUSTER_NAME={name!r}: up to 12 lower-case letters and digits are allowed")
        parts = subnet.split(".")
        if len(parts) != 3 or not all(part.isdigit() and int(part) < 256 for part in parts):
            raise Problem(f"QWEN_CLUSTER_SUBNET={subnet!r}: set the first three numbers of a /24, such as 192.168.250")
        return cls(name=name, subnet=subnet, cache=cache_dir())

    @property
    def host_ip(self) -> str:
        return f"{self.subnet}.1"

    @property
    def node_ip(self) -> str:
        return f"{self.subnet}.2"

    @property
    def api_url(self) -> str:
        return f"https://{self.node_ip}:6443"

    @property
    def link(self) -> str:
        """The host's end of the veth pair."""
        return f"{self.name}0"

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def cgroup(self) -> str:
        """The cgroup of every pod."""
        return f"/{self.name}-vllm"

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def venv(self) -> Path:
        return self.cache / "venv"

    @property
    def clients(self) -> Path:
        """The Python environment of the client programs of `make test-full`."""
        return self.cache / "clients"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def home(self) -> Path:
        """What `down` keeps: keys, pulled images, the registry's content, logs."""
        return self.cache / ("cluster" if self.name == "qwen" else f"cluster-{self.name}")

    @property
    def run(self) -> Path:
        """What `down` removes."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def registry_data(self) -> Path:
        return self.home / "registry"

    @property
    def admin_conf(self) -> Path:
        return self.home / "admin.conf"

    @property
    def kubelet_conf(self) -> Path:
        return self.home / "kubelet.conf"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def checkout_kubeconfig(self) -> Path:
        """Where the user and the tests look for the kubeconfig."""
        return ROOT / ".cluster" / ("kubeconfig" if self.name == "qwen" else f"{self.name}.kubeconfig")

    @property
    def checkout_env(self) -> Path:
        """A file for the user's shell: sets KUBECONFIG, and adds kubectl and helm to PATH."""
        return ROOT / ".cluster" / ("env" if self.name == "qwen" else f"{self.name}.env")

    def nsenter(self) -> list[str]:
        """The prefix of a command that runs in the cluster's network.

        Not `ip netns exec`: that mounts a new /sys and hides the cgroup mounts from the kubelet.
        """
        return ["nsenter", f"--net={self.netns}"]

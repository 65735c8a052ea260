"""The one-node cluster: up, down, status."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import cgroups, components, leftovers, network, pki, registry
from tests.cluster.console import Problem, say, step
from tests.cluster.processes import Supervisor, wait_until
from tests.cluster.settings import BELIEVED_GPUS, NODE, Settings
from tests.cluster.shell import output

PARTS = {
    "etcd": components.etcd,
    "apiserver": components.apiserver,
    "controller-manager": components.controller_manager,
    "scheduler": components.scheduler,
    "registry": components.registry,
    "containerd": components.containerd,
    "kubelet": components.kubelet,
    "kube-proxy": components.kube_proxy,
    "coredns": components.coredns,
}
NEEDED_FREE_GIB = 5
LARGER_DISK = "free some space, or set XDG_CACHE_HOME to a folder on a larger disk"


def supervisor(settings: Settings) -> Supervisor:
    return Supervisor(settings.run / "pids", settings.logs)


def up(settings: Settings) -> None:
    """Start the cluster, unless it is up. Cleans up first after a crash."""
    require_root()
    require_disk(settings.cache, NEEDED_FREE_GIB)
    with locked(settings):
        if healthy(settings):
            say(f"the cluster is already up; kubeconfig: {settings.checkout_kubeconfig}")
            return
        _tear_down(settings)
        with step("one-node cluster"):
            try:
                _bring_up(settings)
            except BaseException:
                _tear_down(settings)
                raise


def down(settings: Settings) -> None:
    """Stop everything and remove what is left. Pulled images and keys stay."""
    require_root()
    with locked(settings):
        _tear_down(settings)
    say("the cluster is down")


def status(settings: Settings) -> bool:
    """Print which parts run. Returns whether the cluster is usable."""
    parts = supervisor(settings)
    for name in PARTS:
        pid = parts.pid(name)
        say(f"{name:<20} {'pid ' + str(pid) if pid else 'not running'}")
    usable = healthy(settings)
    say(f"cluster {settings.name}: {'up' if usable else 'down'}")
    return usable


def healthy(settings: Settings) -> bool:
    """Whether all parts run and the node is Ready."""
    parts = supervisor(settings)
    if not network.exists(settings) or any(parts.pid(name) is None for name in PARTS):
        return False
    return settings.checkout_kubeconfig.exists() and _api_ready(settings) and _node_ready(settings)


def require_root() -> None:
    if os.geteuid() != 0:
        raise Problem("the local cluster needs root", "run with sudo, or use kind: CLUSTER=kind")


def require_disk(folder: Path, gibibytes: int, hint: str = LARGER_DISK) -> None:
    """Raise Problem if the file system of `folder` has less free space."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gibibytes:
        raise Problem(f"{folder} has only {free:.1f} GiB free; {gibibytes} GiB are needed", hint)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Let only one command at a time change the cluster."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def kubectl(settings: Settings, *arguments: str, timeout: float = 60) -> str:
    """Run kubectl as the cluster's administrator. Raises Problem if it fails."""
    return output([settings.bin / "kubectl", f"--kubeconfig={settings.admin_conf}", *arguments], timeout=timeout)


def _bring_up(settings: Settings) -> None:
    pki.ensure(settings)
    for name, text in components.files(settings).items():
        path = settings.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (settings.run / "resolv.conf").write_text("")
    cgroups.create(settings.cgroup)
    network.create(settings)
    parts = supervisor(settings)
    for name in ("etcd", "apiserver", "registry", "containerd"):
        parts.start(name, PARTS[name](settings))
    parts.wait_for("containerd", settings.containerd_socket.exists, 30)
    _clear_old_containers(settings, parts)
    parts.wait_for("registry", lambda: registry.answers(settings), 30)
    registry.ensure_pause(settings)
    parts.wait_for("apiserver", lambda: _api_ready(settings), 90)
    for name in ("controller-manager", "scheduler", "kubelet", "kube-proxy", "coredns"):
        parts.start(name, PARTS[name](settings))
    parts.wait_for("kubelet", lambda: _node_ready(settings), 60)
    _finish(settings, parts)


def _clear_old_containers(settings: Settings, parts: Supervisor) -> None:
    """Delete the containers of a crashed cluster; containerd must restart to notice."""
    if leftovers.remove_containers(settings):
        parts.stop(["containerd"])
        settings.containerd_socket.unlink(missing_ok=True)
        parts.start("containerd", PARTS["containerd"](settings))
        parts.wait_for("containerd", settings.containerd_socket.exists, 30)


def _finish(settings: Settings, parts: Supervisor) -> None:
    """Finish the cluster: fake GPUs, the DNS Service, and the kubeconfig in the checkout."""
    # The kubelet keeps extended resources that are set through the API.
    gpus = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(BELIEVED_GPUS)}]
    kubectl(settings, "patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(gpus))
    manifest = settings.run / "dns.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": components.dns_objects(settings)}))
    kubectl(settings, "apply", "-f", str(manifest))
    account = ("get", "serviceaccount", "default", "-o", "name")
    if not wait_until(lambda: _quietly(settings, *account), 30):
        raise Problem(
            "the controller manager creates no ServiceAccounts", f"see {settings.logs}/controller-manager.log"
        )
    for name in PARTS:
        parts.check(name)
    target = settings.checkout_kubeconfig
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.write_text(settings.admin_conf.read_text())
    settings.checkout_env.write_text(f'export KUBECONFIG="{target}" PATH="{settings.bin}:$PATH"\n')


def _tear_down(settings: Settings) -> None:
    parts = supervisor(settings)
    # First stop what starts pods; containerd stays until its tasks are gone.
    parts.stop(name for name in reversed(PARTS) if name not in ("containerd", "etcd", "apiserver"))
    if settings.containerd_socket.exists() and parts.pid("containerd") is not None:
        leftovers.remove_containers(settings)
    # An API server without its etcd would not stop in time.
    parts.stop(["containerd", "apiserver"])
    parts.stop(["etcd"])
    leftovers.sweep(settings)
    settings.checkout_kubeconfig.unlink(missing_ok=True)
    settings.checkout_env.unlink(missing_ok=True)


def _quietly(settings: Settings, *arguments: str) -> bool:
    try:
        kubectl(settings, *arguments)
    except Problem:
        return False
    return True


def _get(settings: Settings, path: str) -> bytes:
    context = ssl.create_default_context(cafile=str(settings.pki / "ca.crt"))
    context.load_cert_chain(settings.pki / "admin.crt", settings.pki / "admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(settings.api_url + path, timeout=5) as answer:
        body: bytes = answer.read()
        return body


def _api_ready(settings: Settings) -> bool:
    try:
        return _get(settings, "/readyz") == b"ok"
    except (OSError, urllib.error.URLError):
        return False


def _node_ready(settings: Settings) -> bool:
    try:
        node = json.loads(_get(settings, f"/api/v1/nodes/{NODE}"))
    except (OSError, urllib.error.URLError):
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))

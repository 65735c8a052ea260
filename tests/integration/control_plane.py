"""A real control plane on loopback: etcd, kube-apiserver and kube-controller-manager, no node.

It needs no privileges: it uses free ports and files in a temporary folder. Pods are created but
never run; tests act as the kubelet and patch their status.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.settings import cache_dir
from tests.cluster.shell import tail

ADMIN_TOKEN = "integration-admin"
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "disruption-controller",
    "job-controller",
)
START_SECONDS = 90.0


def find_program(name: str) -> Path:
    """The path of a Kubernetes program: in QWEN_CLUSTER_BIN, the project's cache or PATH."""
    folders = [Path(folder) for folder in (os.environ.get("QWEN_CLUSTER_BIN"),) if folder] + [cache_dir() / "bin"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is in none of {', '.join(map(str, folders))}, nor in PATH: run `make deps`")
    return Path(found)


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()


def wait_until(what: str, check: Callable[[], Any], seconds: float = 30.0, pause: float = 0.1) -> Any:
    """Returns the first true result of a check; raises TimeoutError with `what`.

    An object without the part that a check looks for (LookupError) does not have it yet: the API
    server leaves out whatever is empty.
    """
    deadline = time.monotonic() + seconds
    missing: LookupError | None = None
    while True:
        try:
            result, missing = check(), None
        except LookupError as error:
            result, missing = None, error
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}") from missing
        time.sleep(pause)


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    url: str
    ca: Path
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self.folder / "admin.kubeconfig"

    def write_kubeconfig(self, name: str, token: str) -> Path:
        """A kubeconfig for the bearer of a token."""
        path = self.folder / f"{name}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}},
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Runs kubectl as administrator; fails with its error output."""
        command = [str(find_program("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """One call as administrator. Raises urllib's HTTPError."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": content_type},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, timeout=15, context=context) as response:
            text = response.read()
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def wait_for_definition(self, name: str) -> None:
        """Waits until a CustomResourceDefinition is served.

        `kubectl wait` fails on one that is so new that it has no conditions yet.
        """
        where = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"

        def is_served() -> bool:
            found = self.request("GET", where)
            conditions = found.get("status", {}).get("conditions") or ()
            if not any((item["type"], item["status"]) == ("Established", "True") for item in conditions):
                return False
            # What discovery and the handler know follows a little later.
            spec = found["spec"]
            version = next(item["name"] for item in spec["versions"] if item["served"])
            group, plural = f"/apis/{spec['group']}/{version}", spec["names"]["plural"]
            try:
                self.request("GET", f"{group}/{plural}?limit=1")
                return any(item["name"] == plural for item in self.request("GET", group)["resources"])
            except urllib.error.HTTPError as error:
                if error.code not in (404, 429, 503):
                    raise
                return False

        wait_until(f"{name} is served", is_served)

    def service_account_token(self, namespace: str, name: str) -> str:
        """A ServiceAccount token from the API, like that of a pod."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        return str(answer["status"]["token"])


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _certificates(folder: Path) -> None:
    """Creates a CA, the API server's certificate, and the key of ServiceAccount tokens."""
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\n", encoding="utf-8")
    ca = ["-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca"]
    _openssl(folder, "req", *ca, "-days", "2")
    csr = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=kube-apiserver",
    ]
    _openssl(folder, "req", *csr)
    signed = ["-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.crt"]
    _openssl(folder, "x509", "-req", *signed, "-days", "2", "-extfile", "server.ext")
    _openssl(folder, "genrsa", "-out", "sa.key", "2048")
    _openssl(folder, "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
    (folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n', encoding="utf-8")


@contextmanager
def _process(folder: Path, command: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
    name = Path(command[0]).name
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes], seconds: float = 15.0) -> int:
    """Stops a process, by force if SIGTERM does not help. Returns its exit code."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _answers(plane: ControlPlane, processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    for process in processes:
        if process.poll() is not None:
            name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
            raise RuntimeError(f"{name} ended:\n{tail(plane.folder / f'{name}.log')}")
    try:
        return bool(plane.request("GET", "/readyz") == "ok")
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def control_plane(folder: Path, api_flags: Sequence[str] = (), *, ipv6: bool = False) -> Iterator[ControlPlane]:
    """Starts a control plane in a folder; stops it at the end of the block.

    `api_flags` are further flags of kube-apiserver. With `ipv6`, the API server has no other
    address, and neither have Services.
    """
    address, services = ("::1", "fd00:10:96::/112") if ipv6 else ("127.0.0.1", "10.96.0.0/16")
    _certificates(folder)
    client_port, peer_port, api_port = free_ports(3)
    etcd_url, peer_url = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    host = f"[{address}]" if ipv6 else address
    plane = ControlPlane(f"https://{host}:{api_port}", folder / "ca.crt", folder)
    plane.write_kubeconfig("admin", ADMIN_TOKEN)
    etcd: list[str | Path] = [
        find_program("etcd"), "--data-dir", folder / "etcd", "--unsafe-no-fsync",
        "--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url,
        "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
        "--initial-cluster", f"default={peer_url}",
    ]  # fmt: skip
    api: list[str | Path] = [
        find_program("kube-apiserver"), f"--etcd-servers={etcd_url}", f"--secure-port={api_port}",
        f"--bind-address={address}", f"--advertise-address={address}", "--endpoint-reconciler-type=none",
        "--tls-cert-file=server.crt", "--tls-private-key-file=server.key", "--client-ca-file=ca.crt",
        "--token-auth-file=tokens.csv", "--authorization-mode=RBAC", f"--service-cluster-ip-range={services}",
        "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub",
        "--service-account-signing-key-file=sa.key", "--allow-privileged", *api_flags,
    ]  # fmt: skip
    manager: list[str | Path] = [
        find_program("kube-controller-manager"), f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false",
        "--service-account-private-key-file=sa.key", "--root-ca-file=ca.crt", "--use-service-account-credentials",
        f"--controllers={','.join(CONTROLLERS)}", "--secure-port=0",
    ]  # fmt: skip
    with _process(folder, etcd) as etcd_process, _process(folder, api) as api_process:
        wait_until("the API server is ready", lambda: _answers(plane, [etcd_process, api_process]), START_SECONDS)
        with _process(folder, manager):
            yield plane

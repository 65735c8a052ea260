"""The cluster's keys, certificates and kubeconfigs: made by openssl, kept between starts."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.cluster.settings import API_SERVICE_IP, NODE, Settings
from tests.cluster.shell import output, succeeds

DAYS = "3650"
ONE_MONTH = str(30 * 24 * 3600)


def ensure(settings: Settings) -> None:
    """Create the missing files and write the kubeconfigs.

    Everything is renewed if the addresses changed or a certificate expires soon.
    """
    pki = settings.pki
    made_for = pki / "made-for"
    if not (made_for.exists() and made_for.read_text() == settings.node_ip and _valid(pki / "ca.crt")):
        pki.mkdir(parents=True, exist_ok=True)
        pki.chmod(0o700)
        _authority(pki)
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        addresses = ["127.0.0.1", API_SERVICE_IP, settings.node_ip]
        alternatives = ",".join([f"IP:{ip}" for ip in addresses] + [f"DNS:{name}" for name in names])
        _certificate(pki, "apiserver", "/CN=kube-apiserver", f"subjectAltName={alternatives}")
        _certificate(pki, "admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth")
        node = f"subjectAltName=IP:{settings.node_ip},DNS:{NODE}"
        _certificate(pki, "kubelet", f"/O=system:nodes/CN=system:node:{NODE}", node)
        _key(pki / "sa.key")
        output(["openssl", "pkey", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub"])
        made_for.write_text(settings.node_ip)
    _kubeconfig(settings, "admin", settings.admin_conf)
    _kubeconfig(settings, "kubelet", settings.kubelet_conf)


def _valid(certificate: Path) -> bool:
    return certificate.exists() and succeeds(["openssl", "x509", "-in", certificate, "-noout", "-checkend", ONE_MONTH])


def _key(path: Path) -> None:
    output(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
    path.chmod(0o600)


def _authority(pki: Path) -> None:
    _key(pki / "ca.key")
    made = ["-subj", "/CN=qwen-local-ca", "-days", DAYS, "-out", str(pki / "ca.crt")]
    output(["openssl", "req", "-x509", "-new", "-key", pki / "ca.key", *made])


def _certificate(pki: Path, name: str, subject: str, extension: str) -> None:
    _key(pki / f"{name}.key")
    request, extensions = pki / f"{name}.csr", pki / f"{name}.ext"
    extensions.write_text(extension)
    output(["openssl", "req", "-new", "-key", pki / f"{name}.key", "-out", request, "-subj", subject])
    signer = ["-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-CAcreateserial", "-days", DAYS]
    output(["openssl", "x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", pki / f"{name}.crt"])


def _kubeconfig(settings: Settings, user: str, path: Path) -> None:
    def encoded(file: str) -> str:
        return base64.b64encode((settings.pki / file).read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "clusters": [
            {
                "name": "local",
                "cluster": {"server": settings.api_url, "certificate-authority-data": encoded("ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": encoded(f"{user}.crt"),
                    "client-key-data": encoded(f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))

"""Libraries that download models trust the authorities that the pod's environment names."""

from __future__ import annotations

import ipaddress
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.qwen_operator.objects import container, environment, service

ENGINE = {"device": "cpu", "trustedCA": {"configMapRef": {"name": "company-ca"}}}
CLIENTS = {
    "OpenSSL": "import urllib.request as r; r.urlopen('{url}', timeout=20).read()",
    "requests": "import requests; requests.get('{url}', timeout=20).raise_for_status()",
    "Hugging Face": "from huggingface_hub.utils import get_session; get_session().get('{url}').raise_for_status()",
}


class Mirror(BaseHTTPRequestHandler):
    """Answers every request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def certificate(folder: Path) -> Path:
    """A self-signed certificate of 127.0.0.1, which is its own authority. Its key is beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mirror of the company")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    no_password = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    (folder / "key.pem").write_bytes(private)
    (folder / "ca-bundle.crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return folder / "ca-bundle.crt"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of an HTTPS server, and the bundle with its authority."""
    folder = tmp_path_factory.mktemp("mirror")
    bundle = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, folder / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), Mirror)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/", bundle
    server.shutdown()
    thread.join()
    server.server_close()


def run(code: str, variables: dict[str, str]) -> int:
    """The exit code of a Python program with these variables only."""
    plain = {"PATH": os.environ["PATH"], "HOME": "/tmp"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=plain | variables, capture_output=True, check=False, timeout=60).returncode


@pytest.mark.parametrize("client", CLIENTS)
def test_the_bundle_is_trusted(mirror: tuple[str, Path], client: str) -> None:
    url, bundle = mirror
    subject = service(engine=ENGINE)
    [mount] = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "trusted-ca"]
    named = {
        name: value.replace(mount["mountPath"], str(bundle.parent))
        for name, value in environment(subject).items()
        if str(value).startswith(mount["mountPath"])
    }
    assert set(named.values()) == {str(bundle)}
    code = CLIENTS[client].format(url=url)
    assert run(code, named) == 0
    assert run(code, {}) == 1

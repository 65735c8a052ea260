"""The cluster's image registry over its HTTP API, and the images without a Dockerfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

from tests.cluster import network
from tests.cluster.settings import PAUSE_IMAGE, REGISTRY, Settings

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ACCEPT = f"{MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"


def answers(settings: Settings) -> bool:
    """Whether the registry responds."""
    try:
        network.inside(settings.netns, lambda: _request("GET", "/v2/"))
    except OSError:
        return False
    return True


def has(settings: Settings, image: str) -> bool:
    """Whether the registry contains `localhost:5000/name:tag`."""
    name, tag = split(image)
    try:
        network.inside(settings.netns, lambda: _request("HEAD", f"/v2/{name}/manifests/{tag}"))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


def split(image: str) -> tuple[str, str]:
    """`localhost:5000/name:tag` -> (name, tag)."""
    name, _, tag = image.removeprefix(f"{REGISTRY}/").rpartition(":")
    return name, tag


def ensure_pause(settings: Settings) -> None:
    """Push the pause image, which holds a pod's namespaces: one static program that only waits."""
    if not has(settings, PAUSE_IMAGE):
        program = (settings.bin / "pause").read_bytes()
        network.inside(settings.netns, lambda: _push_program(PAUSE_IMAGE, "pause", program))


def ensure_program(settings: Settings, program: Path) -> str:
    """Push an image with one static program as its entrypoint, if it is missing. Returns its name.

    The program is in the folder bin, where the Prometheus Operator expects its own.
    """
    content = program.read_bytes()
    image = f"{REGISTRY}/{program.name}:{hashlib.sha256(content).hexdigest()[:12]}"
    if not has(settings, image):
        network.inside(settings.netns, lambda: _push_program(image, f"bin/{program.name}", content))
    return image


def _push_program(image: str, file: str, program: bytes) -> None:
    """Push an image with a single executable."""
    name, tag = split(image)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for folder in reversed(PurePosixPath(file).parents[:-1]):  # without "."
            member = tarfile.TarInfo(str(folder))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        member = tarfile.TarInfo(file)
        member.size, member.mode = len(program), 0o755
        archive.addfile(member, io.BytesIO(program))
    layer = gzip.compress(tar.getvalue(), compresslevel=1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{file}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar.getvalue())]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, config),
        "layers": [_descriptor(LAYER, layer)],
    }
    for blob in (config, layer):
        upload = _request("POST", f"/v2/{name}/blobs/uploads/")
        joint = "&" if "?" in upload else "?"
        _request("PUT", f"{upload}{joint}digest={_digest(blob)}", blob, "application/octet-stream")
    _request("PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), MANIFEST)


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _request(method: str, path: str, body: bytes | None = None, media_type: str = "") -> str:
    """Send one request from inside the cluster's network. Returns the Location header or ""."""
    request = urllib.request.Request(urljoin(f"http://{REGISTRY}", path), data=body, method=method)
    request.add_header("Accept", ACCEPT)
    if media_type:
        request.add_header("Content-Type", media_type)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return answer.headers.get("Location") or ""

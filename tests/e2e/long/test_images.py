"""The images as this machine builds them: what is in them, and that a second build is the same."""

from __future__ import annotations

import pytest

from tests.cluster import images
from tests.cluster.images import IMAGES, Image
from tests.cluster.settings import Settings
from tests.cluster.shell import output, succeeds
from tests.e2e.kubectl import OPERATOR_PODS, Kubectl
from tests.e2e.services import qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

PACKAGES = "/opt/qwen/venv/lib/python3.11/site-packages"
SYSTEM = "/etc/ssl/certs/ca-certificates.crt"
CERTIFI = "import certifi, os; print(os.path.realpath(certifi.where()))"
NO_GPU = "import torch, os; print(torch.version.cuda, torch.cuda.is_available(), os.path.exists('%s/nvidia/cudnn'))"


def built_again(cluster: Settings, image: Image, name: str) -> str:
    """The digest of an image after a build without any cached layer."""
    reference = f"localhost/{name}:again"
    try:
        images.build(cluster, image, reference, "--no-cache")
        inspect = ["inspect", "--type", "image", "--format", "{{.FromImageDigest}}", reference]
        return output([*images.buildah(cluster), *inspect]).strip()
    finally:
        succeeds([*images.buildah(cluster), "rmi", "--force", reference])


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_two_builds_of_the_same_content_have_the_same_digest(cluster: Settings, image: Image) -> None:
    images.ensure_base(cluster)
    first = built_again(cluster, image, "first")
    assert first.startswith("sha256:")
    assert built_again(cluster, image, "second") == first


def test_the_operators_image_has_no_installer_and_trusts_the_systems_authorities(operator: Kubectl) -> None:
    [pod, *_] = operator.find("pods", OPERATOR_PODS)
    inside = ("exec", pod["metadata"]["name"], "--")
    assert operator.run(*inside, "python", "-c", CERTIFI).strip() == SYSTEM
    programs = "for name in pip pip3 uv cc gcc ld make perl apt-get; do command -v $name; done; true"
    assert operator.run(*inside, "sh", "-c", programs) == ""
    absent = "import importlib.util as u; print([n for n in ('pip', 'setuptools') if u.find_spec(n)])"
    assert operator.run(*inside, "python", "-c", absent).strip() == "[]"


def test_the_cpu_servers_image_has_nothing_of_cuda_but_its_runtime(kubectl: Kubectl) -> None:
    kubectl.apply(qwen_service("news"))
    kubectl.wait_ready("news")
    [pod] = kubectl.pods("news")
    inside = ("exec", pod["metadata"]["name"], "--")
    assert kubectl.run(*inside, "python", "-c", NO_GPU % PACKAGES).strip() == "None False False"
    assert kubectl.run(*inside, "python", "-c", CERTIFI).strip() == SYSTEM

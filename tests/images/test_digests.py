"""The same commit twice makes the same image: whoever has its digest can build it again."""

from __future__ import annotations

import pytest

from tests.cluster import images
from tests.cluster.images import IMAGES, Image
from tests.cluster.settings import Settings
from tests.cluster.shell import output, succeeds

pytestmark = pytest.mark.timeout(1800)

# Nothing of an earlier build is used, and nothing is left of these.
ANEW = ("--no-cache", "--layers=false")


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_two_builds_have_one_digest(image: Image) -> None:
    settings = Settings.from_env()
    images.ensure_base(settings)
    buildah = images.buildah(settings)
    names = [f"localhost/{image.name}-build-{number}" for number in (1, 2)]
    try:
        for name in names:
            images.build(settings, image, name, *ANEW)
        inspect = [*buildah, "inspect", "--type", "image", "--format", "{{.FromImageDigest}}"]
        first, second = [output([*inspect, name], env=images.build_env()).strip() for name in names]
    finally:
        succeeds([*buildah, "rmi", "--force", *names], timeout=600)
    assert first.startswith("sha256:")
    assert first == second

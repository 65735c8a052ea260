"""GPUs: what the scheduler gets, and what the status says if there are not enough."""

from __future__ import annotations

import pytest

from tests.cluster import images
from tests.cluster.clusters import for_tests
from tests.cluster.settings import BELIEVED_GPUS, Settings
from tests.e2e.facts import NAME, expect, unschedulable
from tests.e2e.kubectl import Kubectl
from tests.e2e.scripted_pods import install, scripted_service

pytestmark = pytest.mark.cluster

# The node's GPUs are fake. The podTemplate, which is merged last, makes the container run a
# scripted engine, which needs none.
WITHOUT_GPU = ["--model=scripted", "--device=cpu"]


@pytest.fixture
def server_image(cluster: Settings) -> str:
    """The CPU image, for the pods of a cuda service."""
    return for_tests(cluster).reference(images.SERVER)


def gpu_service(name: str, gpus: int, image: str) -> dict[str, object]:
    service = scripted_service(name, engine={"device": "cuda", "tensorParallelSize": gpus, "image": image})
    [container] = service["spec"]["podTemplate"]["spec"]["containers"]
    container["args"] = WITHOUT_GPU
    return service


@pytest.mark.local_node
def test_service_that_asks_for_a_gpu_gets_one(kubectl: Kubectl, server_image: str) -> None:
    install(kubectl)
    kubectl.apply(gpu_service("one", 1, server_image))
    kubectl.wait_ready("one")
    (pod,) = kubectl.pods("one")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["nodeName"]
    kubectl.run("delete", "qwenservice", "one", "--wait=true")


def test_reason_of_ready_is_unschedulable_without_enough_gpus(kubectl: Kubectl, server_image: str) -> None:
    kubectl.apply(gpu_service(NAME, BELIEVED_GPUS * 2, server_image))
    expect(kubectl, "Unschedulable", unschedulable, "nvidia.com/gpu")
    kubectl.run("delete", "qwenservice", NAME, "--wait=true")

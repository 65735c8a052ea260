from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import components, pki
from tests.cluster.console import Problem
from tests.cluster.settings import API_SERVICE_IP, Settings
from tests.cluster.shell import output

SETTINGS = Settings("qwen", "192.168.250", Path("/cache"))


def test_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QWEN_CLUSTER_NAME", "QWEN_CLUSTER_SUBNET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    settings = Settings.from_env()
    assert settings.node_ip == "192.168.250.2"
    assert settings.home == Path("/elsewhere/qwen-vllm/cluster")
    assert settings.checkout_kubeconfig.parts[-2:] == (".cluster", "kubeconfig")


@pytest.mark.parametrize(
    ("name", "subnet"), [("Two", "10.0.0"), ("a-b", "10.0.0"), ("two", "10.0"), ("two", "10.0.999")]
)
def test_unusable_names_and_subnets_are_refused(name: str, subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_CLUSTER_NAME", name)
    monkeypatch.setenv("QWEN_CLUSTER_SUBNET", subnet)
    with pytest.raises(Problem, match="QWEN_CLUSTER"):
        Settings.from_env()


def test_second_cluster_shares_nothing_that_clashes(tmp_path: Path) -> None:
    one, two = Settings("qwen", "192.168.250", tmp_path), Settings("two", "192.168.251", tmp_path)
    for part in ("link", "netns", "cgroup", "home", "run", "node_ip", "checkout_kubeconfig"):
        assert getattr(one, part) != getattr(two, part)
    assert one.bin == two.bin


def test_every_part_runs_in_the_clusters_network() -> None:
    parts = (
        components.etcd,
        components.apiserver,
        components.controller_manager,
        components.scheduler,
        components.kubelet,
        components.kube_proxy,
        components.coredns,
        components.registry,
        components.containerd,
    )
    for part in parts:
        assert part(SETTINGS)[:2] == ["nsenter", "--net=/run/netns/qwen"]


def test_settings_without_which_a_small_sandbox_fails_are_there() -> None:
    files = components.files(SETTINGS)
    assert "restrict_oom_score_adj = true" in files["containerd.toml"]
    assert "netns_mounts_under_state_dir = true" in files["containerd.toml"]
    assert json.loads(files["kube-proxy.json"])["conntrack"]["maxPerCore"] == 0
    kubelet = json.loads(files["kubelet.json"])
    assert kubelet["cgroupDriver"] == "cgroupfs"
    assert kubelet["cgroupRoot"] == SETTINGS.cgroup
    assert kubelet["evictionHard"]["nodefs.available"] == "1%"


def test_dns_service_leads_to_the_node() -> None:
    service, endpoints = components.dns_objects(SETTINGS)
    assert service["spec"]["clusterIP"] == json.loads(components.files(SETTINGS)["kubelet.json"])["clusterDNS"][0]  # type: ignore[index]
    assert endpoints["endpoints"][0]["addresses"] == [SETTINGS.node_ip]  # type: ignore[index]


def test_certificates_are_made_once_and_again_for_other_addresses(tmp_path: Path) -> None:
    settings = Settings("qwen", "192.168.250", tmp_path)
    pki.ensure(settings)
    certificate = settings.pki / "apiserver.crt"
    first = certificate.read_bytes()
    text = output(["openssl", "x509", "-in", certificate, "-noout", "-text"])
    assert settings.node_ip in text
    assert API_SERVICE_IP in text
    config = json.loads(settings.admin_conf.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://192.168.250.2:6443"
    assert settings.admin_conf.stat().st_mode & 0o077 == 0
    pki.ensure(settings)
    assert certificate.read_bytes() == first
    pki.ensure(Settings("qwen", "192.168.251", tmp_path))
    assert certificate.read_bytes() != first

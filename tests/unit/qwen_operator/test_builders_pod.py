"""The pod template: arguments, environment, probes, security, sources, placement."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qwen_operator.api import QwenService
from qwen_operator.api.replica import ModelSpec
from tests.unit.qwen_operator.objects import (
    Object,
    arguments,
    child,
    container,
    environment,
    gpu_service,
    pod_spec,
    service,
    service_object,
)


def source(**given: Any) -> Object:
    return {"source": {"builtin": None, **given}}


def test_builtin_model_gets_the_name_of_the_specification() -> None:
    flags = arguments(service())
    assert flags["--model"] == "builtin:news-classifier"
    assert flags["--served-model-name"] == "qwen-news-classifier"
    assert flags["--device"] == "cpu"


def test_limits_become_flags() -> None:
    limits = {"maxConcurrentRequests": "auto", "maxQueueSize": 20, "queueTimeout": "1m", "rateLimit": "600/minute"}
    flags = arguments(service(limits=limits))
    assert flags["--max-concurrent-requests"] == "auto"
    assert flags["--max-queue-size"] == "20"
    assert flags["--queue-timeout"] == "60s"
    assert flags["--rate-limit"] == "600/minute"
    assert flags["--max-tokens-limit"] == "512"


def test_absent_settings_give_no_flag() -> None:
    flags = arguments(service())
    for flag in (
        "--rate-limit",
        "--max-model-len",
        "--quantization",
        "--revision",
        "--api-keys-dir",
        "--admin-api-keys-dir",
        "--model-aliases",
        "--chat-template",
    ):
        assert flag not in flags


def test_aliases_become_one_flag() -> None:
    aliases = ["gpt-5-codex", "claude-haiku-*"]
    assert arguments(service(model={"aliases": aliases}))["--model-aliases"] == "gpt-5-codex,claude-haiku-*"


@pytest.mark.parametrize("alias", ["", "a,b", "a b", "a*b", "*a"])
def test_an_alias_is_one_name(alias: str) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({"source": {"builtin": "news-classifier"}, "aliases": [alias]})


@pytest.mark.parametrize(("low", "high", "default"), [(0, 1, "0.7"), (0, 0.5, "0.5"), (0.9, 1, "0.9")])
def test_default_temperature_lies_within_the_limits(low: float, high: float, default: str) -> None:
    flags = arguments(service(limits={"minTemperature": low, "maxTemperature": high}))
    assert flags["--default-temperature"] == default


def test_extra_arguments_come_last_and_apart() -> None:
    args = container(service(engine={"extraArgs": ["--max-num-seqs=64"]}))["args"]
    assert args[-2:] == ["--", "--max-num-seqs=64"]
    assert "--" not in container(service())["args"]


def test_cpu_engine_gets_flags_for_threads_and_memory() -> None:
    subject = service(resources={"limits": {"cpu": "1500m", "memory": "12Gi"}})
    assert environment(subject)["OMP_NUM_THREADS"] == "2"
    assert environment(subject)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert arguments(subject)["--kv-cache-gib"] == "2"
    assert "--enforce-eager" in arguments(subject)


def test_cpu_engine_without_limits_is_modest() -> None:
    assert environment(service())["OMP_NUM_THREADS"] == "1"
    assert arguments(service())["--kv-cache-gib"] == "1"


def test_cuda_engine_gets_gpus_and_no_cpu_settings() -> None:
    subject = gpu_service(engine={"tensorParallelSize": 2})
    assert container(subject)["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert arguments(subject)["--gpu-memory-utilization"] == "0.9"
    assert "--kv-cache-gib" not in arguments(subject)
    assert "OMP_NUM_THREADS" not in environment(subject)
    assert container(subject)["image"] == "registry/server:cuda"


def test_gpu_pods_tolerate_the_taint_of_gpu_nodes() -> None:
    assert pod_spec(gpu_service())["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "tolerations" not in pod_spec(service())


def test_own_image_wins_over_the_default() -> None:
    assert container(service(engine={"image": "mine:1"}))["image"] == "mine:1"


def test_variables_of_the_user_win_and_names_stay_unique() -> None:
    subject = service(engine={"env": [{"name": "OMP_NUM_THREADS", "value": "4"}, {"name": "X", "value": "y"}]})
    found = [item["name"] for item in container(subject)["env"]]
    assert len(found) == len(set(found))
    assert environment(subject)["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(("cache", "home"), [(None, "/tmp/huggingface"), ({"size": "1Gi"}, "/cache/huggingface")])
def test_hub_model_is_downloaded_into_the_cache(cache: Any, home: str) -> None:
    hub = {"repo": "Qwen/Qwen3-8B", "revision": "v1", "tokenSecretRef": {"name": "hf", "key": "token"}}
    subject = service(model=source(huggingFace=hub), cache=cache)
    assert arguments(subject)["--model"] == "Qwen/Qwen3-8B"
    assert arguments(subject)["--revision"] == "v1"
    assert arguments(subject)["--served-model-name"] == "Qwen3-8B"
    assert environment(subject)["HF_HOME"] == home
    assert environment(subject)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}


def test_modelscope_is_switched_on() -> None:
    subject = service(model=source(modelScope={"repo": "Qwen/Qwen3-8B"}))
    assert environment(subject)["VLLM_USE_MODELSCOPE"] == "True"
    assert arguments(subject)["--revision"] == "master"


def test_model_of_a_claim_is_mounted_read_only() -> None:
    subject = service(model=source(pvc={"claimName": "models", "path": "qwen/qwen3-8b/"}))
    assert arguments(subject)["--model"] == "/models/qwen/qwen3-8b"
    assert arguments(subject)["--served-model-name"] == "qwen3-8b"
    (mount,) = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "model"]
    assert mount == {"name": "model", "mountPath": "/models", "readOnly": True}


def test_model_of_an_image_is_an_image_volume() -> None:
    reference = "registry.example.com:5000/models/qwen3-8b:1@sha256:00"
    subject = service(model=source(image={"reference": reference}))
    (volume,) = [volume for volume in pod_spec(subject)["volumes"] if volume["name"] == "model"]
    assert volume["image"] == {"reference": reference, "pullPolicy": "IfNotPresent"}
    assert arguments(subject)["--served-model-name"] == "qwen3-8b"


def test_every_mount_has_its_volume() -> None:
    template = {"chatTemplate": {"configMapRef": {"name": "templates"}}}
    subject = service(
        model=source(pvc={"claimName": "models"}) | template,
        cache={"size": "1Gi"},
        auth={
            "apiKeySecretRef": {"name": "keys"},
            "adminKeySecretRef": {"name": "admins"},
            "metricsTokenSecretRef": {"name": "m", "key": "token"},
        },
    )
    volumes = {volume["name"] for volume in pod_spec(subject)["volumes"]}
    mounts = {mount["name"] for mount in container(subject)["volumeMounts"]}
    assert mounts == volumes


def test_api_keys_are_mounted_as_a_folder() -> None:
    subject = service(auth={"apiKeySecretRef": {"name": "keys"}})
    (mount,) = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "api-keys"]
    assert arguments(subject)["--api-keys-dir"] == mount["mountPath"]


def test_a_chat_template_is_mounted_from_its_config_map() -> None:
    model = source(huggingFace={"repo": "Qwen/Qwen3-8B"}) | {
        "chatTemplate": {"configMapRef": {"name": "t", "key": "a"}}
    }
    subject = service(model=model)
    (mount,) = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "chat-template"]
    (volume,) = [volume for volume in pod_spec(subject)["volumes"] if volume["name"] == "chat-template"]
    (item,) = volume["configMap"]["items"]
    assert (volume["configMap"]["name"], item["key"]) == ("t", "a")
    assert arguments(subject)["--chat-template"] == f"{mount['mountPath']}/{item['path']}"


def test_keys_of_administrators_are_mounted_apart_from_the_api_keys() -> None:
    subject = service(auth={"apiKeySecretRef": {"name": "keys"}, "adminKeySecretRef": {"name": "admins"}})
    mounts = {mount["name"]: mount for mount in container(subject)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(subject)["volumes"]}
    assert volumes["admin-api-keys"]["secret"] == {"secretName": "admins"}
    assert mounts["admin-api-keys"]["readOnly"]
    assert arguments(subject)["--admin-api-keys-dir"] == mounts["admin-api-keys"]["mountPath"]
    assert mounts["admin-api-keys"]["mountPath"] != mounts["api-keys"]["mountPath"]


def test_startup_probe_lasts_as_long_as_the_budget() -> None:
    probe = container(service(rollout={"startupTimeout": "10m"}))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 600


def test_a_pod_that_is_up_waits_two_seconds_at_most_for_its_startup_probe() -> None:
    probe = container(service(rollout={"startupTimeout": "10m"}))["startupProbe"]
    assert probe["periodSeconds"] <= 2
    # A probe without an answer takes no longer than its period: the budget is not stretched.
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_startup_budget_follows_an_overridden_period() -> None:
    subject = service(rollout={"startupTimeout": "10m"}, probes={"startup": {"periodSeconds": 7}})
    probe = container(subject)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_probes_are_overridden_field_by_field() -> None:
    probe = container(service(probes={"liveness": {"failureThreshold": 12}}))["livenessProbe"]
    assert probe == {
        "httpGet": {"path": "/health/live", "port": "http"},
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": 12,
        "terminationGracePeriodSeconds": 25,
    }


def test_grace_period_is_longer_than_the_drain() -> None:
    subject = service(drain={"timeout": "5m"})
    assert pod_spec(subject)["terminationGracePeriodSeconds"] > 300
    assert arguments(subject)["--drain-timeout"] == "300s"


def test_pods_satisfy_the_restricted_security_profile() -> None:
    pod, server = pod_spec(gpu_service()), container(gpu_service())
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {"emptyDir", "configMap", "downwardAPI"}
    assert not pod["automountServiceAccountToken"]


def test_services_do_not_leak_into_the_servers_settings() -> None:
    assert pod_spec(service("qwen"))["enableServiceLinks"] is False


@pytest.mark.parametrize(("gate", "gates"), [("Enabled", 1), ("Disabled", 0)])
def test_readiness_gate_can_be_left_out(gate: str, gates: int) -> None:
    assert len(pod_spec(service(remediation={"readinessGate": gate})).get("readinessGates", [])) == gates


@pytest.mark.parametrize("mode", ["Enforce", "DryRun", "Off"])
def test_remediation_mode_never_touches_the_pods(mode: str) -> None:
    assert pod_spec(service(remediation={"mode": mode})) == pod_spec(service())


def test_replicas_spread_over_nodes_by_default() -> None:
    keys = [constraint["topologyKey"] for constraint in pod_spec(service())["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    own = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
    (constraint,) = pod_spec(service(scheduling={"topologySpreadConstraints": [own]}))["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "rack"
    assert constraint["labelSelector"]["matchLabels"]["qwen-vllm.io/service"] == "news"


def test_scheduling_is_passed_on() -> None:
    scheduling = {"nodeSelector": {"a": "b"}, "priorityClassName": "high", "runtimeClassName": "nvidia"}
    assert scheduling.items() <= pod_spec(gpu_service(scheduling=scheduling)).items()
    assert "priorityClassName" not in pod_spec(service())


def test_pod_template_is_merged_last() -> None:
    patch = {
        "containers": [{"name": "server", "image": "fake:1", "args": ["--x"]}, {"name": "proxy", "image": "proxy:1"}],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "terminationGracePeriodSeconds": 7,
    }
    subject = service(podTemplate={"spec": patch, "metadata": {"annotations": {"a": "b"}}})
    assert container(subject)["image"] == "fake:1"
    assert container(subject)["args"] == ["--x"]
    assert container(subject)["readinessProbe"]
    assert [item["name"] for item in pod_spec(subject)["containers"]] == ["server", "proxy"]
    assert child(subject, "Deployment")["spec"]["template"]["metadata"]["annotations"] == {"a": "b"}


def test_pod_template_adds_labels_to_those_of_the_selector() -> None:
    subject = child(service(podTemplate={"metadata": {"labels": {"team": "news"}}}), "Deployment")
    found = subject["spec"]["template"]["metadata"]["labels"]
    assert found["team"] == "news"
    assert subject["spec"]["selector"]["matchLabels"].items() <= found.items()


def test_null_in_the_pod_template_removes_what_was_built() -> None:
    raw = service_object()
    raw["spec"]["podTemplate"] = {"spec": {"topologySpreadConstraints": None, "securityContext": {"fsGroup": None}}}
    found = pod_spec(QwenService.parse(raw))
    assert "topologySpreadConstraints" not in found
    assert "fsGroup" not in found["securityContext"]
    assert found["securityContext"]["runAsUser"] == 65532


def test_the_cluster_may_choose_the_user_and_libraries_find_its_name() -> None:
    raw = service_object()
    rest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    raw["spec"]["podTemplate"] = {"spec": {"securityContext": {"$patch": "replace", **rest}}}
    subject = QwenService.parse(raw)
    assert pod_spec(subject)["securityContext"] == rest
    assert container(subject)["securityContext"] == container(service())["securityContext"]
    for name, value in (("HOME", "/tmp"), ("LOGNAME", "qwen"), ("USER", "qwen")):
        assert environment(subject)[name] == value


def test_a_server_that_answers_nothing_leaves_rotation_and_is_restarted_by_the_kubelet() -> None:
    found = container(service())
    seconds = {
        kind: probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
        for kind in ("readiness", "liveness")
        for probe in [found[f"{kind}Probe"]]
    }
    assert seconds == {"readiness": 20, "liveness": 70}
    assert found["livenessProbe"]["terminationGracePeriodSeconds"] == 25
    assert pod_spec(service(drain={"timeout": "10m"}))["terminationGracePeriodSeconds"] > 600


def test_trusted_authorities_are_mounted_and_found_by_every_library() -> None:
    bundle = {"configMapRef": {"name": "company-ca", "key": "bundle.pem"}}
    subject = service(engine={"trustedCA": bundle}, model=source(huggingFace={"repo": "Qwen/Qwen3-8B"}))
    (volume,) = [volume for volume in pod_spec(subject)["volumes"] if volume["name"] == "trusted-ca"]
    assert volume["configMap"] == {
        "name": "company-ca",
        "items": [{"key": "bundle.pem", "path": "ca-bundle.crt"}],
    }
    (mount,) = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "trusted-ca"]
    assert mount["readOnly"]
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert environment(subject)[name] == f"{mount['mountPath']}/ca-bundle.crt"
    assert "SSL_CERT_FILE" not in environment(service())


def test_a_variable_of_the_user_wins_over_the_trusted_authorities() -> None:
    engine = {
        "trustedCA": {"configMapRef": {"name": "company-ca"}},
        "env": [{"name": "SSL_CERT_FILE", "value": "/mine.pem"}],
    }
    assert environment(service(engine=engine))["SSL_CERT_FILE"] == "/mine.pem"


def test_claims_bring_the_gpus_instead_of_the_extended_resource() -> None:
    claims = [
        {"name": "gpu", "resourceClaimTemplateName": "two-gpus", "request": "gpus"},
        {"name": "nic", "resourceClaimName": "shared-nic"},
    ]
    subject = gpu_service(gpu={"resourceClaims": claims}, engine={"tensorParallelSize": 2})
    assert pod_spec(subject)["resourceClaims"] == [
        {"name": "gpu", "resourceClaimTemplateName": "two-gpus"},
        {"name": "nic", "resourceClaimName": "shared-nic"},
    ]
    assert container(subject)["resources"] == {"claims": [{"name": "gpu", "request": "gpus"}, {"name": "nic"}]}
    assert subject.spec.gpu_count == 2
    assert "resourceClaims" not in pod_spec(gpu_service())


MINUTES = [
    ({"builtin": "news-classifier"}, 10),
    ({"builtin": "mine"}, 30),
    ({"huggingFace": {"repo": "Qwen/Qwen3-0.6B"}}, 30),
    ({"huggingFace": {"repo": "Qwen/Qwen3-8B"}}, 30),
    ({"huggingFace": {"repo": "Qwen/Qwen3-32B-AWQ"}}, 74),
    ({"huggingFace": {"repo": "Qwen/Qwen3-30B-A3B-Instruct-2507"}}, 70),
    ({"modelScope": {"repo": "Qwen/Qwen3-235B-A22B"}}, 480),
    ({"huggingFace": {"repo": "Qwen/Qwen1.5-MoE-A2.7B"}}, 30),
    ({"huggingFace": {"repo": "gpt2"}}, 30),
    ({"pvc": {"claimName": "models", "path": "qwen3-235b/main"}}, 30),
    ({"pvc": {"claimName": "models", "path": "qwen3-235b/"}}, 89),
    ({"pvc": {"claimName": "qwen3-8b"}}, 13),
    ({"pvc": {"claimName": "qwen3-600m"}}, 11),
    ({"image": {"reference": "registry.example.com:5000/models/qwen3-8b:1@sha256:00"}}, 13),
    ({"image": {"reference": "registry.example.com/models/qwen3:8b-2507"}}, 13),
    ({"image": {"reference": "registry.example.com/models/qwen3"}}, 30),
]


@pytest.mark.parametrize(("given", "minutes"), MINUTES, ids=lambda value: str(value)[:60])
def test_startup_budget_follows_from_the_size_of_the_model(given: Object, minutes: int) -> None:
    subject = service(model=source(**given))
    probe = container(subject)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == minutes * 60
    spec = child(subject, "Deployment")["spec"]
    assert spec["progressDeadlineSeconds"] == minutes * 60 + 60 + 60


def test_a_startup_budget_of_the_user_wins() -> None:
    subject = service(model=source(huggingFace={"repo": "Qwen/Qwen3-235B-A22B"}), rollout={"startupTimeout": "15m"})
    probe = container(subject)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 900

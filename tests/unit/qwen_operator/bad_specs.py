"""Specs that the API server refuses: sections of a spec, the field of the error, and its text.

The operator's reader refuses them, too, because an older CRD may have let one through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from qwen_operator.api.flags import OWNED_VARIABLES


class BadSpec(NamedTuple):
    """`path` of the spec gets `value`. The error names `field` (`path` if empty) and has `text`.

    `beside` are other sections that the spec has.
    """

    path: str
    value: Any
    text: str
    field: str = ""
    beside: tuple[tuple[str, Any], ...] = ()

    @property
    def named(self) -> str:
        """The field that the error names."""
        return f"spec.{self.field or self.path}"

    def put(self, spec: dict[str, Any]) -> None:
        """Writes it into a good spec."""
        for path, value in (*self.beside, (self.path, self.value)):
            set_path(spec, path, value)

    def __str__(self) -> str:
        return f"{self.path}={str(self.value)[:40]!r}"


HUB = "model.source.huggingFace"
SCOPE = "model.source.modelScope"
VOLUME = "model.source.pvc"
FLAG = "must not be a flag that the operator or the server sets"


def _hub(repo: str = "Qwen/Qwen3-8B", **more: Any) -> dict[str, Any]:
    return {"repo": repo, **more}


TIMES = [
    BadSpec(path, value, text)
    for path, values, text in (
        ("limits.queueTimeout", ("0s", "2h"), "must be from 1ms to 1h"),
        ("monitoring.interval", ("0s", "2h"), "must be from 1s to 1h"),
        ("rollout.startupTimeout", ("0s", "0h0m", "99999h99999h"), "must be from 1s to 168h"),
        ("drain.timeout", ("25h",), "must be from 0s to 24h"),
        ("remediation.pollInterval", ("0s", "99ms", "11m"), "must be from 100ms to 10m"),
        ("remediation.recoverAfter", ("61m",), "must be from 0s to 1h"),
        ("remediation.restartBudget.window", ("0s", "1000h"), "must be from 1m to 720h"),
        ("remediation.backoff.max", ("25h",), "must be from 0s to 24h"),
    )
    for value in values
]
SOURCES = [
    BadSpec(f"{kind}.repo", repo, "should match")
    for kind in (HUB, SCOPE)
    for repo in ("../../etc", "/etc", "", "Qwen/..", "a b/c", "Qwen/Qwen3-8B\n", "https://huggingface.co/Qwen/Qwen3-8B")
] + [
    BadSpec(f"{SCOPE}.repo", "Qwen3-8B", "should match"),
    BadSpec(HUB, _hub(revision=""), "should match", f"{HUB}.revision"),
    BadSpec(HUB, _hub(revision="../main"), "should match", f"{HUB}.revision"),
    BadSpec(HUB, _hub(revision="ma in"), "should match", f"{HUB}.revision"),
    BadSpec(HUB, _hub(tokenSecretRef={"name": "hf", "key": ""}), "at least 1", f"{HUB}.tokenSecretRef.key"),
    BadSpec(HUB, _hub(tokenSecretRef={"name": "hf", "key": "a b"}), "should match", f"{HUB}.tokenSecretRef.key"),
    BadSpec(VOLUME, {"claimName": "m", "path": "../../etc"}, "path must not contain ..", f"{VOLUME}.path"),
    BadSpec(VOLUME, {"claimName": "m", "path": "a/../../b"}, "path must not contain ..", f"{VOLUME}.path"),
    BadSpec(VOLUME, {"claimName": "m", "path": "/models"}, "should match", f"{VOLUME}.path"),
    BadSpec("model.source.image", {"reference": "a b"}, "should match", "model.source.image.reference"),
]
NAMES = [
    BadSpec("model.servedName", "news\n", "should match"),
    BadSpec("model.servedName", "news classifier", "should match"),
    BadSpec("model.aliases", ["a\x07"], "should match", "model.aliases[0]"),
    BadSpec("engine.image", "registry/server:1 ", "should match"),
    BadSpec("engine.quantization", "fp8 --port=1", "should match"),
    BadSpec("gpu.resourceName", "gpu", "should match"),
    BadSpec("route", {"parentRefs": [{"name": "g"}], "hostnames": ["a b"]}, "should match", "route.hostnames[0]"),
    BadSpec("scheduling.nodeSelector", {"disk": "a b"}, "should match", "scheduling.nodeSelector.disk"),
    BadSpec("scheduling.priorityClassName", "Not A Name", "should match"),
]
_FOLDER = {"path": "/models/a"}
ADAPTERS = [
    BadSpec("adapters", [{"name": name, "source": _FOLDER}], "should match", "adapters[0].name")
    for name in ("a b", "a,b", "a=b", "a*", "a\n")
] + [
    BadSpec("adapters", [{"name": "a" * 64, "source": _FOLDER}], "63", "adapters[0].name"),
    BadSpec("adapters", [{"name": "a", "source": {}}], "exactly one of", "adapters[0].source"),
    BadSpec(
        "adapters",
        [{"name": "a", "source": {**_FOLDER, "huggingFace": {"repo": "me/a"}}}],
        "exactly one of",
        "adapters[0].source",
    ),
    BadSpec("adapters", [{"name": "a", "source": {"path": "models/a"}}], "should match", "adapters[0].source.path"),
    BadSpec(
        "adapters",
        [{"name": "a", "source": {"modelScope": {"repo": "a"}}}],
        "should match",
        "adapters[0].source.modelScope.repo",
    ),
    BadSpec(
        "adapters",
        [{"name": "qwen", "source": _FOLDER}],
        "adapters must not have a name of the model",
        beside=(("model.servedName", "qwen"),),
    ),
    BadSpec(
        "adapters",
        [{"name": "gpt-5", "source": _FOLDER}],
        "adapters must not have a name of the model",
        beside=(("model.aliases", ["gpt-5"]),),
    ),
    *(
        BadSpec(
            "adapters",
            [{"name": "a", "source": _FOLDER}, {"name": name, "source": _FOLDER}],
            "adapters must not have the model's default name",
            beside=(("model.source", source),),
        )
        for name, source in (
            ("qwen-news-classifier", {"builtin": "news-classifier"}),
            ("Qwen3-8B", {"huggingFace": {"repo": "Qwen/Qwen3-8B"}}),
            ("gpt2", {"huggingFace": {"repo": "gpt2"}}),
            ("Qwen3-8B", {"modelScope": {"repo": "Qwen/Qwen3-8B"}}),
            ("b", {"pvc": {"claimName": "models", "path": "a/b"}}),
        )
    ),
    BadSpec(
        "adapters",
        [{"name": f"a{number}", "source": _FOLDER} for number in range(17)],
        "adapters must not be more than lora.maxAdapters",
    ),
    BadSpec(
        "adapters",
        [{"name": f"a{number}", "source": _FOLDER} for number in range(2)],
        "adapters must not be more than lora.maxAdapters",
        beside=(("lora", {"maxAdapters": 1}),),
    ),
]
FLAGS = [
    BadSpec("engine.extraArgs", ["--seed=1", argument], FLAG, "engine.extraArgs[1]")
    for argument in (
        "--port=80",
        "--host",
        "--no-enable-log-requests",
        "--max_model_len=9",
        "--data-parallel-size=2",
        "--api-key=x",
        "--chat-template=x",
        "-tp",
        "-q8",
        "--disable-auto-tool-choice",
    )
] + [BadSpec("engine.extraArgs", [""], "at least 1", "engine.extraArgs[0]")]
VARIABLES = [
    BadSpec("engine.env", [{"name": name, "value": "1"}], "name must not be a variable", "engine.env[0].name")
    for name in ("QWEN_PORT", "qwen_host", "QWEN_MAX_QUEUE_SIZE", "QWEN_PROTECT_METRICS", *OWNED_VARIABLES[:3])
] + [
    BadSpec("engine.env", [{"name": "A", "valueFrom": {}}], "exactly one of", "engine.env[0].valueFrom"),
    BadSpec(
        "engine.env",
        [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "a"}, "secretKeyRef": {"name": "a", "key": "b"}}}],
        "exactly one of",
        "engine.env[0].valueFrom",
    ),
]
AMOUNTS = [
    BadSpec("resources.limits", {"memory": "0"}, "limits.memory must be at least 1Mi"),
    BadSpec("resources.limits", {"memory": 16}, "limits.memory must be at least 1Mi"),
    BadSpec("resources.limits", {"memory": "500m"}, "limits.memory must be at least 1Mi"),
    BadSpec("resources.requests", {"memory": "0"}, "requests.memory must be at least 1Mi"),
    BadSpec("resources.limits", {"cpu": 0}, "limits.cpu must be at least 1m"),
    BadSpec(
        "resources",
        {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        "requests.memory must be at most limits.memory",
        "resources.requests",
    ),
    BadSpec(
        "resources",
        {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}},
        "requests.cpu must be at most limits.cpu",
        "resources.requests",
    ),
    BadSpec("resources.limits", {"nvidia.com/gpu": 1}, "resources must not contain gpu.resourceName", "resources"),
    BadSpec("cache.size", "0", "must be at least 1Mi"),
    BadSpec("engine.maxModelLen", 1, "greater than or equal to 2"),
    BadSpec("engine.maxModelLen", 100, "must be above limits.defaultMaxTokens"),
    BadSpec("remediation.restartBudget.maxRestarts", 201, "must be at most 200"),
]
TENANTS = [
    BadSpec("limits.tenants", [{"name": "a", "weight": 1}], "needs auth.apiKeySecretRef"),
    BadSpec("limits.tenantReserve", 1, "needs auth.apiKeySecretRef"),
    *(
        BadSpec(
            "limits.tenants",
            [tenant],
            text,
            f"limits.tenants[0].{field}",
            (("auth", {"apiKeySecretRef": {"name": "k"}}),),
        )
        for tenant, field, text in (
            ({"name": "a,b", "weight": 1}, "name", "should match"),
            ({"name": "a", "weight": 0}, "weight", "greater than or equal to 1"),
            ({"name": "a", "weight": 1001}, "weight", "less than or equal to 1000"),
        )
    ),
]
OBJECTIVES = [
    *(
        BadSpec(
            "slo.ttft",
            {"threshold": threshold, "objective": "95"},
            "must be a bound of the server's histogram",
            "slo.ttft.threshold",
        )
        for threshold in ("0s", "3s", "1h")
    ),
    *(
        BadSpec("slo", {"availability": "99", "window": window}, "should match", "slo.window")
        for window in ("3h", "6d", "91d")
    ),
    BadSpec("slo.availability", "0", "should match"),
    BadSpec("slo", {}, "availability or ttft must be set"),
    BadSpec(
        "slo",
        {"availability": "99"},
        "slo needs monitoring.prometheusRule",
        beside=(("monitoring", {"prometheusRule": "Disabled"}),),
    ),
    BadSpec(
        "slo",
        {"availability": "99"},
        "monitoring.interval must be at most 2m with slo",
        "monitoring.interval",
        (("monitoring", {"interval": "3m"}),),
    ),
]
TASKS = [
    BadSpec(
        "slo",
        {"ttft": {"threshold": "1s", "objective": "95"}},
        "slo.ttft must be unset unless model.task is generate",
        "slo.ttft",
        (("model.task", "embed"),),
    ),
    BadSpec(
        "alerts",
        [{"name": "HighTTFT", "threshold": 1}],
        "alerts must not set HighTTFT or LowThroughput",
        beside=(("model.task", "embed"),),
    ),
    *(
        BadSpec(
            "model.task", task, "must be generate or embed", beside=(("model.source", {"builtin": "news-classifier"}),)
        )
        for task in ("rerank", "classify")
    ),
]
SCALING = [
    BadSpec("autoscaling", {"maxReplicas": 2, **scaling}, text, f"autoscaling.{field}")
    for scaling, text, field in (
        ({"scaleDownStabilization": "2h"}, "must be from 0s to 1h", "scaleDownStabilization"),
        ({"scaler": "KEDA"}, "prometheusAddress must be set with the scaler KEDA", "prometheusAddress"),
        ({"scaler": "KEDA", "prometheusAddress": "prometheus:9090"}, "should match", "prometheusAddress"),
        ({"prometheusAddress": "http://prometheus:9090"}, "scaler must be KEDA", "scaler"),
        (
            {"scaler": "KEDA", "prometheusAddress": "http://prometheus:9090", "minReplicas": 0},
            "activationQuery must be set with minReplicas 0",
            "activationQuery",
        ),
        (
            {"scaler": "KEDA", "prometheusAddress": "http://prometheus:9090", "activationQuery": "up"},
            "activationQuery must be set with minReplicas 0, and only then",
            "activationQuery",
        ),
    )
]
_CLAIM = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}
CLAIMS = [
    BadSpec("gpu.resourceClaims", [_CLAIM], "must be empty if engine.device is cpu"),
    BadSpec(
        "gpu",
        {"count": 1, "resourceClaims": [_CLAIM]},
        "count must not be set with resourceClaims",
        "gpu.count",
    ),
    *(
        BadSpec("gpu.resourceClaims", [claim], "exactly one of resourceClaimName", "gpu.resourceClaims[0]")
        for claim in ({"name": "gpu"}, {**_CLAIM, "resourceClaimName": "shared"})
    ),
]
EXPOSURE = [
    BadSpec("ingress", {"hosts": ["a b"]}, "should match", "ingress.hosts[0]"),
    BadSpec("ingress", {"className": "Not A Name"}, "should match", "ingress.className"),
    BadSpec("ingress", {"annotations": {"qwen-vllm.io/restart": "1"}}, "they belong to the operator",
            "ingress.annotations"),
    BadSpec("monitoring.networkPolicyFrom", [{"podSelector": {}}], "needs networkPolicy.enabled: true"),
    BadSpec(
        "engine.trustedCA",
        {"configMapRef": {"name": "company-ca", "key": "a b"}},
        "should match",
        "engine.trustedCA.configMapRef.key",
    ),
]  # fmt: skip
ALERTS = [
    BadSpec(
        "alerts",
        [{"name": "HighErrorRate", "threshold": 500}],
        "must be at most 100 for a percentage",
        "alerts[0].threshold",
    ),
    BadSpec(
        "alerts",
        [{"name": "EngineUnresponsive", "threshold": 0}],
        "must be at least 1 second",
        "alerts[0].threshold",
    ),
    BadSpec(
        "remediation.rules",
        [{"alert": "EngineDead", "action": "Unready"}],
        "action must not be Unready for EngineDead",
        "remediation.rules[0].action",
    ),
]
OTHERS = [
    BadSpec("networkPolicy.from", [{"podSelector": {}}], "from needs enabled: true"),
    BadSpec("networkPolicy", {"enabled": True, "from": [{}]}, "must be set", "networkPolicy.from[0]"),
    BadSpec(
        "networkPolicy",
        {"enabled": True, "from": [{"ipBlock": {"cidr": "anywhere"}}]},
        "should match",
        "networkPolicy.from[0].ipBlock.cidr",
    ),
    BadSpec(
        "cache",
        {"existingClaim": "models", "storageClassName": "fast"},
        "storageClassName must not be set with existingClaim",
        "cache.storageClassName",
    ),
    BadSpec("podTemplate.metadata.labels", {"app.kubernetes.io/managed-by": "x"}, "the operator sets them"),
    BadSpec("podTemplate.metadata.labels", {"team": "a b"}, "should match", "podTemplate.metadata.labels.team"),
    BadSpec("podTemplate.metadata.annotations", {"qwen-vllm.io/restart": "1"}, "they belong to the operator"),
    BadSpec("metadata.labels", {"qwen-vllm.io/service": "x"}, "the operator sets them"),
    BadSpec("metadata.labels", {"team": "a b"}, "should match", "metadata.labels.team"),
    BadSpec("metadata.annotations", {"qwen-vllm.io/restart": "1"}, "they belong to the operator"),
    BadSpec("metadata.labels", {"a b": "c"}, "must have keys such as"),
    BadSpec("metadata.annotations", {"a" * 64: "c"}, "must have keys such as"),
    BadSpec("podTemplate.metadata.labels", {"Example.com/a": "c"}, "must have keys such as"),
    BadSpec("monitoring.labels", {"a..b/c": "d"}, "must have keys such as"),
    BadSpec("podTemplate.metadata.annotations", {"a/b/c": "d"}, "must have keys such as"),
    BadSpec("monitoring.labels", {"qwen-vllm.io/service": "x"}, "the operator sets them"),
    BadSpec("service.annotations", {"qwen-vllm.io/config-hash": "1"}, "they belong to the operator"),
]  # fmt: skip
BAD_SPECS = [
    *TIMES, *SOURCES, *NAMES, *ADAPTERS, *FLAGS, *VARIABLES, *AMOUNTS, *OBJECTIVES, *TASKS, *SCALING, *CLAIMS,
    *EXPOSURE, *ALERTS, *OTHERS, *TENANTS,
]  # fmt: skip
# The images may be newer than the operator, so only the API server refuses it.
UNKNOWN_MODEL = BadSpec("model.source.builtin", "nope", "model.source.builtin must be news-classifier")


def set_path(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The spec with a value at a path. A source of the model replaces the one that is there."""
    if path.startswith("model.source."):
        base["model"]["source"] = {}
    *parents, last = path.split(".")
    place = base
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return base

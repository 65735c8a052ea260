"""Specs that are accepted and together use every field."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

BUILTIN: Spec = {"model": {"source": {"builtin": "news-classifier"}}}
CPU: Spec = {**BUILTIN, "engine": {"device": "cpu"}}
GPU: Spec = {"model": {"source": {"huggingFace": {"repo": "Qwen/Qwen3-8B"}}}}
_SELECTOR: Spec = {
    "matchLabels": {"app": "a"},
    "matchExpressions": [{"key": "b", "operator": "Exists"}, {"key": "c", "operator": "In", "values": ["d"]}],
}
_PEERS: list[Spec] = [
    {"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR},
    {"namespaceSelector": {}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    {"ipBlock": {"cidr": "fd00::/8"}},
]
_TERM: Spec = {
    "labelSelector": _SELECTOR,
    "namespaces": ["a"],
    "namespaceSelector": _SELECTOR,
    "topologyKey": "kubernetes.io/hostname",
    "matchLabelKeys": ["pod-template-hash"],
    "mismatchLabelKeys": ["b"],
}
_POD_AFFINITY: Spec = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": _TERM}],
}
_NODE_TERM: Spec = {
    "matchExpressions": [{"key": "gpu", "operator": "Gt", "values": ["1"]}],
    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}],
}
GOOD_SPECS: dict[str, Spec] = {
    "smallest": BUILTIN,
    "on a CPU": CPU,
    "scaled to zero": {**CPU, "replicas": 0},
    "repository without an organization": {"model": {"source": {"huggingFace": {"repo": "gpt2"}}}},
    "pull request of a repository": {
        "model": {
            "servedName": "qwen3:8b",
            "aliases": ["gpt-5", "*"],
            "source": {
                "huggingFace": {
                    "repo": "Qwen/Qwen2.5-0.5B_x",
                    "revision": "refs/pr/7",
                    "tokenSecretRef": {"name": "hf", "key": "a.token"},
                }
            },
        }
    },
    "chat template": {
        "model": {**BUILTIN["model"], "chatTemplate": {"configMapRef": {"name": "templates", "key": "qwen.jinja"}}}
    },
    "name that is not English": {"model": {"servedName": "新闻分类", **BUILTIN["model"]}},
    "ModelScope": {
        "model": {
            "source": {
                "modelScope": {
                    "repo": "Qwen/Qwen3-8B",
                    "revision": "v1.0.0",
                    "tokenSecretRef": {"name": "ms", "key": "token"},
                }
            }
        }
    },
    "root of a volume": {"model": {"source": {"pvc": {"claimName": "models"}}}},
    "folder of a volume": {"model": {"source": {"pvc": {"claimName": "models", "path": "qwen3 8b/v..1"}}}},
    "image by digest": {
        "model": {
            "source": {"image": {"reference": f"reg.example.com:5000/q@sha256:{'0' * 64}", "pullPolicy": "Never"}}
        }
    },
    "image of one's own": {
        "model": {"source": {"builtin": "mine"}},
        "engine": {
            "image": "[::1]:5000/qwen:1",
            "imagePullPolicy": "Always",
            "imagePullSecrets": [{"name": "registry"}],
        },
    },
    "parallel engine": {
        **GPU,
        "engine": {
            "tensorParallelSize": 4,
            "pipelineParallelSize": 2,
            "maxModelLen": 32768,
            "gpuMemoryUtilization": 0.95,
            "dtype": "bfloat16",
            "quantization": "compressed-tensors",
            "restarts": 2,
        },
        "gpu": {"count": 8, "resourceName": "nvidia.com/mig-3g.40gb"},
    },
    "more GPUs than the engine uses": {**GPU, "gpu": {"count": 2}},
    "claimed GPUs": {
        **GPU,
        "gpu": {
            "resourceClaims": [
                {"name": "gpu", "resourceClaimTemplateName": "one-gpu", "request": "gpu"},
                {"name": "nic", "resourceClaimName": "shared-nic"},
            ]
        },
    },
    "mirror inside a company": {
        **GPU,
        "engine": {"trustedCA": {"configMapRef": {"name": "company-ca", "key": "tls-ca-bundle.pem"}}},
    },
    "flags of vLLM": {
        **GPU,
        "engine": {
            "extraArgs": ["--max-num-seqs", "64", "--kv-cache-dtype=fp8", '--hf-overrides={"a": "=b"}', "-O3"],
        },
    },
    "variables": {
        **GPU,
        "engine": {
            "env": [
                {"name": "QWEN_CORS_ORIGINS", "value": "*"},
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": False}}},
                {"name": "C", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
                {
                    "name": "D",
                    "valueFrom": {
                        "resourceFieldRef": {"containerName": "server", "resource": "limits.cpu", "divisor": "1m"}
                    },
                },
            ]
        },
    },
    "small container": {
        **CPU,
        "resources": {"requests": {"cpu": 0, "memory": "1Gi"}, "limits": {"cpu": "1500m", "memory": "1.5Gi"}},
    },
    "numbers as quantities": {
        **CPU,
        "resources": {"requests": {"memory": 2147483648, "ephemeral-storage": "1G"}, "limits": {"cpu": 2}},
    },
    "limits": {
        **CPU,
        "limits": {
            "maxConcurrentRequests": "auto",
            "maxQueueSize": 0,
            "queueTimeout": "500ms",
            "defaultMaxTokens": 256,
            "maxTokens": 256,
            "onExceed": "Clamp",
            "maxStops": 1,
            "minTemperature": 0.5,
            "maxTemperature": 0.5,
            "rateLimit": "1/second",
        },
    },
    "adapters": {
        **CPU,
        "adapters": [
            {"name": "news", "source": {"path": "/models/news"}},
            {"name": "体育", "source": {"huggingFace": {"repo": "me/sport", "revision": "v1"}}},
            {"name": "finance", "source": {"modelScope": {"repo": "me/finance", "revision": "v2"}}},
        ],
    },
    "an adapter with the default name of a model of another name": {
        "engine": {"device": "cpu"},
        "model": {"servedName": "base", "source": {"huggingFace": {"repo": "Qwen/Qwen3-8B"}}},
        "adapters": [{"name": "Qwen3-8B", "source": {"path": "/models/news"}}],
    },
    "adapters whose names are not quite the model's": {
        "engine": {"device": "cpu"},
        "model": {"source": {"pvc": {"claimName": "models", "path": "a/b"}}},
        "adapters": [{"name": name, "source": {"path": "/models/news"}} for name in ("a", "a/b", "models")],
    },
    "room for adapters": {**CPU, "lora": {"maxAdapters": 20, "maxAtOnce": 8, "maxRank": 64}},
    "tenants": {
        **CPU,
        "limits": {
            "tenants": [{"name": "team-a.key", "weight": 1000}, {"name": "b", "weight": 1}],
            "tenantReserve": 1024,
        },
        "auth": {"apiKeySecretRef": {"name": "keys"}},
    },
    "API keys": {
        **CPU,
        "auth": {
            "apiKeySecretRef": {"name": "keys"},
            "adminKeySecretRef": {"name": "admins"},
            "metricsTokenSecretRef": {"name": "metrics", "key": "token"},
        },
    },
    "exposed": {
        **CPU,
        "service": {
            "type": "LoadBalancer",
            "port": 80,
            "ipFamilyPolicy": "RequireDualStack",
            "annotations": {"example.com/lb": "internal"},
        },
        "route": {
            "hostnames": ["*.example.com"],
            "parentRefs": [{"name": "g", "namespace": "infra", "sectionName": "https", "port": 443}],
        },
    },
    "behind an Ingress": {
        **CPU,
        "ingress": {
            "className": "nginx",
            "hosts": ["news.example.com", "*.example.com"],
            "tlsSecretName": "news-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "600"},
        },
    },
    "behind the default Ingress": {**CPU, "ingress": {}},
    "placed": {
        **GPU,
        "scheduling": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5},
                {"operator": "Exists"},
            ],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NODE_TERM]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": _NODE_TERM}],
                },
                "podAffinity": _POD_AFFINITY,
                "podAntiAffinity": _POD_AFFINITY,
            },
            "priorityClassName": "high",
            "runtimeClassName": "nvidia",
        },
    },
    "spread": {
        **GPU,
        "scheduling": {
            "topologySpreadConstraints": [
                {
                    "maxSkew": 2,
                    "topologyKey": "rack",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": _SELECTOR,
                    "minDomains": 3,
                    "nodeAffinityPolicy": "Honor",
                    "nodeTaintsPolicy": "Ignore",
                    "matchLabelKeys": ["pod-template-hash"],
                }
            ]
        },
    },
    "cache": {
        **GPU,
        "cache": {
            "size": "1Ti",
            "storageClassName": "fast",
            "accessModes": ["ReadWriteMany"],
            "retain": False,
            "download": "Pods",
        },
    },
    "cache of one's own": {**GPU, "cache": {"existingClaim": "models"}},
    "monitored": {
        **CPU,
        "monitoring": {
            "serviceMonitor": "Enabled",
            "prometheusRule": "Disabled",
            "interval": "1m",
            "labels": {"release": "prometheus"},
        },
    },
    "embeddings": {
        **CPU,
        "model": {"source": {"builtin": "news-classifier"}, "task": "embed"},
        "slo": {"availability": "99"},
        "alerts": [{"name": "HighTTFT", "enabled": False}, {"name": "HighLatency", "threshold": 1}],
    },
    "reranker": {**GPU, "model": {"source": {"huggingFace": {"repo": "Qwen/Qwen3-Reranker-0.6B"}}, "task": "rerank"}},
    "objectives": {
        **CPU,
        "slo": {"availability": "99.95", "ttft": {"threshold": "500ms", "objective": "95"}, "window": "7d"},
    },
    "autoscaled by load": {
        **GPU,
        "autoscaling": {
            "minReplicas": 1,
            "maxReplicas": 1000,
            "scaler": "HPA",
            "target": {"waitingRequestsPerReplica": 1},
            "scaleDownStabilization": "0s",
        },
    },
    "scaled to zero by KEDA": {
        **GPU,
        "autoscaling": {
            "minReplicas": 0,
            "maxReplicas": 2,
            "scaler": "KEDA",
            "prometheusAddress": "http://prometheus-operated.monitoring.svc:9090",
            "activationQuery": 'sum(rate(gateway_requests_total{route="news"}[2m]))',
        },
    },
    "scaled by KEDA": {
        **GPU,
        "autoscaling": {"maxReplicas": 2, "scaler": "KEDA", "prometheusAddress": "https://thanos/select/0"},
    },
    "isolated": {**CPU, "networkPolicy": {"enabled": True, "from": _PEERS}},
    "isolated and scraped": {
        **CPU,
        "networkPolicy": {"enabled": True},
        "monitoring": {"networkPolicyFrom": _PEERS},
    },
    "isolated and not scraped": {
        **CPU,
        "networkPolicy": {"enabled": True},
        "monitoring": {"networkPolicyFrom": []},
    },
    "rollout by deletion": {**GPU, "replicas": 4, "rollout": {"maxUnavailable": "50%"}},
    "careful rollout": {
        **GPU,
        "replicas": 4,
        "disruption": {"podDisruptionBudget": "Disabled"},
        "rollout": {
            "maxSurge": "25%",
            "maxUnavailable": 0,
            "minReadySeconds": 0,
            "startupTimeout": "3h",
            "onOperatorUpgrade": "Apply",
        },
        "probes": {
            name: {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 5}
            for name in ("startup", "readiness", "liveness")
        },
        "drain": {"timeout": "0s"},
    },
    "strict remediation": {
        **GPU,
        "replicas": 4,
        "alerts": [
            {"name": "EngineUnresponsive", "threshold": 1},
            {"name": "HighErrorRate", "threshold": 100, "for": "5m", "severity": "info", "enabled": False},
            {"name": "HighTTFT", "threshold": 0},
        ],
        "remediation": {
            "mode": "DryRun",
            "readinessGate": "Disabled",
            "pollInterval": "100ms",
            "minReadyReplicas": "100%",
            "recoverAfter": "0s",
            "restartMethod": "Evict",
            "restartBudget": {"maxRestarts": "10%", "window": "24h"},
            "backoff": {"base": "0s", "max": "0s"},
            "rules": [
                {"alert": "EngineDead", "action": "Restart", "for": "2m"},
                {"alert": "HighTTFT", "action": "None"},
            ],
        },
    },
    "labels and pods": {
        **CPU,
        "metadata": {"labels": {"team": "news"}, "annotations": {"example.com/a": "any text: 1", "EXAMPLE.com/a": ""}},
        "podTemplate": {
            "metadata": {
                "labels": {"app.kubernetes.io/version": "1"},
                "annotations": {"sidecar.istio.io/inject": "no"},
            },
            "spec": {
                "containers": [{"name": "server", "volumeMounts": [{"mountPath": "/dev/shm", "$patch": "delete"}]}]
            },
        },
    },
}

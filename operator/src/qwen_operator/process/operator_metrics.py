"""The metrics that the operator exports about itself.

Counters by a label begin with 0 for the values that are known beforehand: Prometheus sees an
increase only between two values. `remediation.figures` does the same for each service.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from qwen_operator.process.service_series import ServiceSeries

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # memory, CPU time and open files of the process
LEADER = Gauge("qwen_operator_leader", "1 while this process is the leader.", registry=REGISTRY)
SERVICES = Gauge("qwen_operator_services", "Number of QwenServices.", registry=REGISTRY)
QUEUE = Gauge("qwen_operator_queue_length", "Number of QwenServices in the work queue.", registry=REGISTRY)
RECONCILES = Counter("qwen_operator_reconciles", "Reconciliations by result.", ["result"], registry=REGISTRY)
RECONCILE_SECONDS = Histogram(
    "qwen_operator_reconcile_seconds",
    "Duration of reconciliations.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    registry=REGISTRY,
)
WRITES = Counter("qwen_operator_writes", "Writes to the Kubernetes API by kind.", ["kind"], registry=REGISTRY)
POLLS = Counter("qwen_operator_polls", "Reads of a pod's metrics by result.", ["result"], registry=REGISTRY)
ACTIONS = ServiceSeries(
    "qwen_operator_remediation_actions",
    "Remediation actions, performed or (in a dry run) only reported.",
    "alert",
    "action",
    "reason",
    registry=REGISTRY,
    counter=True,
)
RESTARTS = ServiceSeries(
    "qwen_operator_restarts",
    "Restarts of pods by remediation. Each service has one from its first round on.",
    registry=REGISTRY,
    counter=True,
)
DEATHS = ServiceSeries(
    "qwen_operator_engine_deaths",
    "Deaths of engines that the operator saw, and kills of their containers for lack of memory. Each service has one "
    "from its first round on.",
    registry=REGISTRY,
    counter=True,
)
CONDITION = ServiceSeries(
    "qwen_operator_condition",
    "1 while a condition of a QwenService is True.",
    "type",
    registry=REGISTRY,
)
SCALED_TO_ZERO = ServiceSeries(
    "qwen_operator_scaled_to_zero",
    "1 while a QwenService has no replicas, because its spec asks for none.",
    registry=REGISTRY,
)
PODS_OUT = ServiceSeries(
    "qwen_operator_pods_out_of_rotation",
    "Pods that remediation keeps out of rotation.",
    registry=REGISTRY,
)
PODS_RESTARTING = ServiceSeries(
    "qwen_operator_pods_restarting",
    "Those of the pods out of rotation that remediation is restarting.",
    registry=REGISTRY,
)
SUSPENDED = ServiceSeries(
    "qwen_operator_remediation_suspended",
    "1 while remediation of a service is suspended.",
    registry=REGISTRY,
)
WATCHES = Gauge("qwen_operator_watches", "Watches by the kind of their objects.", ["kind"], registry=REGISTRY)
FAILING_WATCHES = Gauge(
    "qwen_operator_failing_watches",
    "Watches that have failed twice in a row or more, by the kind of their objects.",
    ["kind"],
    registry=REGISTRY,
)

for _result in ("ok", "error", "refused"):
    RECONCILES.labels(_result)
for _result in ("ok", "invalid", "no answer"):
    POLLS.labels(_result)

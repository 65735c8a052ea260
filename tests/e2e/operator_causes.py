"""What causes the alerts about the operator, on the local cluster."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from tests.e2e.kubectl import OPERATOR_PODS, Kubectl, KubectlError, Object, wait_for
from tests.e2e.monitored import own_namespace
from tests.e2e.scripted_pods import scripted_service
from tests.e2e.stage import Stage

ROLE = "qwen-operator-qwen-system"
SERVICES = 6
"""So many services retry their writes at the same times, so that the errors do not pause."""


def refused_writes(stage: Stage) -> None:
    """Lets a webhook that nobody answers refuse the Deployments of a namespace."""
    with own_namespace(stage.cluster, "refused") as kubectl:
        kubectl.apply(_webhook(kubectl.namespace))
        try:
            wait_for(lambda: _is_refused(kubectl), 30, "the webhook has no effect")
            kubectl.apply(*(scripted_service(f"news-{number}", 0) for number in range(SERVICES)))
            stage.alarms.fires("QwenOperatorReconcileErrors", 120)
        finally:
            kubectl.run("delete", "validatingwebhookconfiguration", kubectl.namespace)
        stage.alarms.clears("QwenOperatorReconcileErrors", 120)


def foreign_lease(stage: Stage) -> None:
    """Gives the Lease to somebody who does not exist, and releases it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    _hold_lease(stage, {"holderIdentity": "nobody", "leaseDurationSeconds": 3600, "renewTime": now})
    try:
        stage.alarms.fires("QwenOperatorNoLeader", 90)
    finally:
        _hold_lease(stage, {"holderIdentity": "", "leaseDurationSeconds": 1})
    stage.alarms.clears("QwenOperatorNoLeader", 90)


def no_rights(stage: Stage) -> None:
    """Takes the right to list pods from an operator that starts, and gives it back."""
    rules = stage.operator.get("clusterrole", ROLE)["rules"]
    _set_rules(stage, [rule for rule in rules if rule["resources"] != ["pods"]])
    try:
        # Watches that have begun go on for minutes.
        stage.operator.run("delete", "pods", "-l", OPERATOR_PODS, "--wait=false")
        stage.alarms.fires("QwenOperatorBlind", 150)
    finally:
        _set_rules(stage, rules)
    stage.operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s", timeout=150)
    stage.alarms.clears("QwenOperatorBlind", 90)


def no_operator(stage: Stage) -> None:
    """Scales the operator to 0, and back."""
    replicas = stage.operator.get("deployment", "qwen-operator")["spec"]["replicas"]
    stage.operator.run("scale", "deployment", "qwen-operator", "--replicas=0")
    try:
        stage.alarms.fires("QwenOperatorDown", 120)
    finally:
        stage.operator.run("scale", "deployment", "qwen-operator", f"--replicas={replicas}")
        stage.operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=120s", timeout=150)
    stage.alarms.clears("QwenOperatorDown", 90)


def _hold_lease(stage: Stage, spec: Object) -> None:
    stage.operator.run("patch", "lease", "qwen-operator", "--type=merge", "--patch", json.dumps({"spec": spec}))


def _set_rules(stage: Stage, rules: list[Object]) -> None:
    patch = [{"op": "replace", "path": "/rules", "value": rules}]
    stage.operator.run("patch", "clusterrole", ROLE, "--type=json", "--patch", json.dumps(patch))


def _is_refused(kubectl: Kubectl) -> bool:
    """Whether a Deployment in the namespace is refused."""
    try:
        kubectl.run("create", "deployment", "probe", "--image=probe", "--dry-run=server")
    except KubectlError:
        return True
    else:
        return False


def _webhook(namespace: str) -> Object:
    """A webhook without a server for the Deployments that are made in a namespace."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [
            {
                "name": "nobody.example.com",
                "clientConfig": {"service": {"name": "nobody", "namespace": namespace, "path": "/"}},
                "rules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["deployments"],
                    }
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 1,
            }
        ],
    }

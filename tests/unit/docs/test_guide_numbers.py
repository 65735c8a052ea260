"""The numbers in docs/operations.md are those of the code.

A promise is a piece of the page, made from the constants that keep it. Other tests show that the
code does what the constants say.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import yaml

import pod_schema
from benchmarks.operators.table import LINES
from qwen_operator import children, controller, downloads
from qwen_operator.api import MAX_HISTORY, startup
from qwen_operator.api.bounds import MAX_VALUES
from qwen_operator.kube import cache, client, events, informer, lease, pacing, retries, workqueue
from qwen_operator.kube.resources import OPTIONAL, PODS, QWEN_SERVICES, Resource
from qwen_operator.planning import plan, plan_warnings
from qwen_operator.planning.builders import download, pod
from qwen_operator.process.settings import read_settings
from qwen_operator.remediation import decide, hardware, memory, policy, poll, restarts
from qwen_operator.status import exits
from qwen_server.api.transcript import MAX_CHARACTERS
from qwen_server.control import lifecycle
from qwen_server.download.command import PATIENCE_SECONDS
from tests.e2e.long import test_running_pods
from tests.integration import long_run
from tests.unit.qwen_operator.remediation_world import spec

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
CHART = yaml.safe_load((ROOT / "charts" / "qwen-operator" / "Chart.yaml").read_text(encoding="utf-8"))
SETTINGS = read_settings(["--server-image-cpu=a", "--server-image-cuda=b"], {})
POLICY = policy.policy_of(spec())
TARGETS = {line.key: line.target for line in LINES if line.target is not None}
REQUIRED: Final = len(cache._CHILDREN) + len(cache._RESTLESS) + len((PODS, QWEN_SERVICES))
"""Kinds that are watched in each namespace."""
_NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}
_TIMES: Final = {2: "twice", 3: "three times"}


def word(number: float) -> str:
    """A small number as a word."""
    return _NUMBERS[int(number)] if number == int(number) else f"{number:g}"


def restart(alert: str) -> int:
    """Seconds until a pod that was taken out is restarted, by default."""
    after = POLICY.alerts[alert].restart_after
    assert after is not None
    return int(after)


def minutes(time: float) -> str:
    """A time in seconds as words."""
    return f"{word(time / 60)} minutes"


def seconds(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"


def whole_minutes(time: timedelta) -> str:
    return f"{time / timedelta(minutes=1):g} min"


def megabytes(time_per_gb: timedelta) -> str:
    """The rate at which a gigabyte takes this time."""
    return f"{1000 / time_per_gb.total_seconds():.0f} MB/s"


def kubernetes() -> str:
    """The oldest version of Kubernetes that the chart accepts."""
    found = re.fullmatch(r">=(\d+\.\d+)\.0-0", CHART["kubeVersion"])
    assert found is not None
    return found[1]


PROMISES = (
    # Install.
    f"You need Kubernetes {kubernetes()} or newer",
    f"tries it again within two minutes, usually within {retries._DENIED_PAUSE:g} seconds",
    f"costs the operator {REQUIRED} to {REQUIRED + len(cache._OPTIONAL_CHILDREN)} connections to the API server",
    f"has at most {MAX_VALUES:,} values, and a list in `podTemplate` at most {pod_schema.MAX_ITEMS:,} items",
    f"nothing but its Lease, every {word(lease.RETRY_SECONDS)} seconds",
    f"which of {word(len({resource.api_version for resource in OPTIONAL}))} optional APIs are installed",
    f"Lists are read in pages of {client.PAGE} objects",
    f"Every {cache._COMPARE_SECONDS / 60:g} minutes it lists their children and pods, too.",
    f"A watch ends after {minutes(client.WATCH_SECONDS)} and begins again.",
    # Upgrade.
    f"the other one takes it within {TARGETS['term_leads'].limit:g} seconds",
    f"it takes up to {TARGETS['kill_serves'].limit:g} seconds",
    # Conditions and Events.
    f"the operator looks again every {children.TAKEN_SECONDS:g} seconds",
    f"again within a minute, and within {word(pacing.CHANGED_SECONDS)} seconds after a change of the spec",
    f"less and less often, at last every {minutes(pacing.REPAIR_MAX)}",
    f"has not worked for {minutes(plan_warnings._SCALING_PATIENCE)}",
    f"could not read the metrics of a ready pod for {policy.BLIND_SECONDS:g} s",
    f"at most {events.BURST} Events at once and then one every {word(events.REFILL_SECONDS)} seconds",
    f"The last {MAX_HISTORY} steps are also in `status.remediation.history`.",
    # Remediation.
    f"Every {word(POLICY.poll)} seconds (`remediation.pollInterval`, but at most once a second)",
    f"after {memory._SECOND_POLL * POLICY.poll:g} seconds while the polls decide",
    f"after two polls | after {restart('EngineUnresponsive')} s; while no other pod serves, after twice the threshold",
    f"after two polls | after {restart('GPUUnhealthy')} s, by eviction",
    f"after two polls | after {restart('HighErrorRate') // 60} min, if a peer serves",
    f"after {word(restarts.MAX_DEATHS)} deaths without becoming ready, by eviction",
    f"a pod that is taken out again within {minutes(memory.REPEAT_SECONDS)}",
    f"one that comes and goes every {minutes(decide.REPORT_AGAIN_SECONDS)}",
    f"opens again after {restarts.SILENT_SECONDS:g} seconds, "
    f"or {word(policy.EVIDENCE_POLLS)} polls if they take longer",
    f"for {policy.BLIND_SECONDS:g} seconds ({policy.BLIND_POLLS} polls if that is sooner, "
    f"{word(policy.EVIDENCE_POLLS)} if that is later)",
    f"older than {word(policy.EVIDENCE_POLLS)} polls",
    f"After {word(hardware.MAX_REPLACEMENTS)} replacements on the same GPU, or on the same node within a day",
    # Models.
    f"After {minutes(PATIENCE_SECONDS)} in which nothing arrives it exits with {exits.TRY_LATER}",
    f"ends it at once with exit code {exits.CONFIGURATION}",
    f"asks the pod of the Job every {word(downloads.ASK_SECONDS)} seconds",
    f"The next Job begins {minutes(download.RETRY_SECONDS)} later",
    "The pod requests {requests[cpu]} CPU and {requests[memory]} of memory, and its limits are {limits[cpu]} CPUs "
    "and {limits[memory]}.".format(**download._RESOURCES),
    f"The startup probe asks a pod every {word(pod._PROBES['startup']['periodSeconds'])} seconds",
    f"{whole_minutes(startup._BASE)}, and {seconds(startup._DOWNLOAD_PER_GB)} for each GB; "
    f"at least {whole_minutes(startup.UNKNOWN_SIZE)}",
    f"{whole_minutes(startup._BASE)}, and {seconds(startup._LOAD_PER_GB)} for each GB |",
    f"slower than {megabytes(startup._DOWNLOAD_PER_GB)} or {megabytes(startup._LOAD_PER_GB)}",
    # What reaches running pods.
    f"takes effect in running pods within {word(test_running_pods.THRESHOLD_SECONDS)} seconds, without a restart",
    # Logs and troubleshooting.
    f"each cut at {MAX_CHARACTERS:,} characters",
    f"heard nothing of QwenServices for {minutes(SETTINGS.resync_seconds + controller._SILENCE)}",
    f"the operator follows within {max(retries._PAUSES):g} seconds",
    f"every minute and those of their children every {cache._COMPARE_SECONDS / 60:g} minutes",
    f"watches that have failed {_TIMES[informer.FAILING]} in a row or more",
    f"For up to {word(lifecycle.LAST_REQUEST_SECONDS)} seconds a client may send one more request",
    f"memory changes by more than {100 * long_run._MEMORY_CHANGE:g} %, or if the p99 of the last "
    f"{minutes(long_run.WINDOW_SECONDS)} is more than {100 * long_run._LATENCY_CHANGE:g} % above",
    f"{exits.ENGINE_DIED} that the engine died (Event `EngineDead`), {exits.CONFIGURATION} a wrong configuration",
)


@pytest.mark.parametrize("promise", PROMISES)
def test_the_guide_has_the_numbers_of_the_code(promise: str) -> None:
    assert promise in TEXT


def test_what_the_guide_calls_a_second_a_minute_and_a_day() -> None:
    assert poll.SHORTEST_SECONDS == 1
    assert (SETTINGS.resync_seconds, cache.DISCOVERY_SECONDS, workqueue.BACKOFF_MAX) == (60, 60, 60)
    assert plan._BLIP_SECONDS == 60
    assert timedelta(seconds=hardware._SAME_NODE_SECONDS) == timedelta(days=1)


def test_a_namespace_that_cannot_be_listed_is_tried_again_within_two_minutes() -> None:
    longest = max(*retries._PAUSES, retries._DENIED_PAUSE) + retries._LONGEST_PAUSE
    assert longest <= 120


def test_the_times_of_a_hand_over_leave_room_for_the_start_of_the_next_leader() -> None:
    term, kill = TARGETS["term_serves"].limit, TARGETS["kill_serves"].limit
    assert term - lease.STANDBY_SECONDS >= 2
    # The standby sees a renewal up to one look late, and the end of the Lease another one late.
    assert kill - (lease.LEASE_SECONDS + 2 * lease.STANDBY_SECONDS) >= 2


def test_the_default_budget_is_the_one_of_the_guide() -> None:
    assert "The default is the larger of 3 and 10 % of the replicas, at most 20, in one hour." in TEXT
    assert [spec(replicas=replicas).max_restarts for replicas in (1, 30, 31, 200, 1000)] == [3, 3, 4, 20, 20]
    assert POLICY.window == 3600


def test_the_quota_of_the_guide_bounds_each_kind_that_is_kept() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    [quota] = [found for block in blocks if (found := yaml.safe_load(block)).get("kind") == "ResourceQuota"]
    kept = {PODS, QWEN_SERVICES, *cache._CHILDREN, *cache._OPTIONAL_CHILDREN, *cache._RESTLESS}
    assert set(quota["spec"]["hard"]) == {_counted(resource) for resource in kept}


def _counted(resource: Resource) -> str:
    """The name of a kind in a ResourceQuota."""
    group, _, _ = resource.api_version.rpartition("/")
    return f"count/{resource.plural}.{group}" if group else resource.plural

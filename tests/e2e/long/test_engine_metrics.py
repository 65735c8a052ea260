"""The metrics of the engine itself, which only a real vLLM has, as Prometheus sees them."""

from __future__ import annotations

import pytest
from charts.dashboards import queries

from tests.cluster.prometheus_stack import RELEASE
from tests.cluster.settings import Settings
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.prometheus import prometheus_operator, start
from tests.e2e.services import ask_through_service, qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "news"
CHAT = {"messages": [{"role": "user", "content": "请分类：央行宣布降息"}], "max_tokens": 16}


def test_the_engines_own_metrics_reach_prometheus(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(qwen_service(NAME, monitoring={"interval": "5s", "labels": RELEASE}))
    kubectl.wait_ready(NAME)
    with prometheus_operator(cluster) as images:
        prometheus = start(cluster, images, [])
        ask_through_service(kubectl, cluster, NAME, "/v1/chat/completions", CHAT)
        tokens = f'vllm:generation_tokens_total{{namespace="{kubectl.namespace}",service="{NAME}"}}'
        wait_for(lambda: prometheus.value(tokens) > 0, 60, "Prometheus does not see the engine's tokens")
        assert any(name.startswith("vllm:kv_cache_usage") for name in prometheus.names())
        panels = [query for query in queries(kubectl.namespace, NAME) if "vllm:" in query.expression]
        assert panels

        def empty() -> list[str]:
            return [query.panel for query in panels if not prometheus.recent(query.expression, 60)]

        wait_for(lambda: not empty(), 60, lambda: f"these panels are empty: {empty()}")

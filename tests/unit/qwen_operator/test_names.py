"""Names and labels are always valid in Kubernetes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api.names import child_labels, child_name, selector_labels, selector_string, service_url

# The name of a Service has the strictest rules: it begins with a letter.

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
service_names = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True)


@given(service_names, st.sampled_from(["", "alerts", "cache"]))
def test_every_child_has_a_valid_name(service: str, suffix: str) -> None:
    assert DNS_LABEL.fullmatch(child_name(service, suffix))


@given(service_names, service_names)
def test_different_services_have_different_children(one: str, other: str) -> None:
    assert (child_name(one) == child_name(other)) == (one == other)


def test_short_names_stay_as_they_are() -> None:
    assert child_name("news") == "news"
    assert child_name("news", "alerts") == "news-alerts"


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert child_name("a" * 80) != child_name("a" * 81)
    assert child_name("a" * 80, "alerts").endswith("-alerts")


@given(service_names)
def test_labels_have_valid_values(service: str) -> None:
    assert all(
        re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)
        for value in child_labels(service).values()
    )


def test_children_carry_the_selector() -> None:
    assert selector_labels("news").items() <= child_labels("news").items()
    assert selector_string("news") == "app.kubernetes.io/name=qwen-server,qwen-vllm.io/service=news"


def test_url_is_the_service_in_the_cluster() -> None:
    assert service_url("news", "team", 8000) == "http://news.team.svc:8000"

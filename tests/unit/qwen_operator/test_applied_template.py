"""The annotation with the pod template that was applied last: anybody may have written it."""

from __future__ import annotations

import base64
import tracemalloc
import zlib

import pytest

from qwen_operator.api.names import APPLIED_TEMPLATE_ANNOTATION
from qwen_operator.planning.builders.deployment import keep_template, pack, unpack
from tests.unit.qwen_operator.objects import child, live, service

MIB = 1024 * 1024


def packed(text: bytes) -> str:
    return base64.b64encode(zlib.compress(text)).decode()


def test_what_was_packed_is_unpacked() -> None:
    template = child(service(), "Deployment")["spec"]["template"]
    assert unpack(pack(template)) == template


def test_a_bomb_is_not_unpacked() -> None:
    bomb = packed(b'{"spec":{"a":[' + b"[]," * 10_000_000 + b"0]}}")
    assert len(bomb) < 256 * 1024  # the limit of Kubernetes for annotations
    tracemalloc.start()
    try:
        assert unpack(bomb) is None
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "é",
        "AAAA",
        packed(b""),
        packed(b"{"),
        packed(b"[1]"),
        packed(b'{"spec":5}'),
        packed(b'{"spec":{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}}"),
        packed(b'{"spec":{"a":' + b"[" * 100 + b"]" * 100 + b"}}"),
        packed(b'{"spec":{"a":[' + b"0," * 20_000 + b"0]}}"),
        packed(b'{"spec":{"a":"\\ud800"}}'),
        packed(b'{"spec":{"a":' + b"9" * 5_000 + b"}}"),
        packed(b'{"spec":{}}')[:-8],
    ],
)
def test_what_cannot_be_read_is_not_there(value: str) -> None:
    assert unpack(value) is None
    desired = child(service(), "Deployment")
    found = live(desired)
    found["metadata"]["annotations"][APPLIED_TEMPLATE_ANNOTATION] = value
    kept = keep_template(desired, found)
    assert kept["spec"]["template"]["spec"]["restartPolicy"] == "Always"  # what is live

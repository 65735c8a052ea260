"""The states of the process, and the annotation that requests a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qwen_server.control.lifecycle import Lifecycle, RestartWatch, restart_request


def test_it_goes_from_starting_to_ready_to_draining() -> None:
    lifecycle = Lifecycle(clock=lambda: 12.5)
    assert (lifecycle.state, lifecycle.started_at) == ("starting", 12.5)
    lifecycle.mark_ready()
    assert lifecycle.state == "ready"
    lifecycle.begin_drain("SIGTERM")
    assert (lifecycle.state, lifecycle.cause) == ("draining", "SIGTERM")


def test_a_state_never_goes_back() -> None:
    lifecycle = Lifecycle()
    lifecycle.begin_drain("SIGTERM")
    lifecycle.mark_ready()
    assert lifecycle.state == "draining"
    lifecycle.mark_dead("killed")
    lifecycle.begin_drain("again")
    lifecycle.mark_dead("later")
    assert (lifecycle.state, lifecycle.cause) == ("dead", "killed")


async def test_a_drain_waits_for_every_accepted_request() -> None:
    lifecycle = Lifecycle()
    await lifecycle.wait_idle()
    with lifecycle.track():
        with pytest.raises(RuntimeError), lifecycle.track():
            raise RuntimeError
        waiting = asyncio.create_task(lifecycle.wait_idle())
        await asyncio.sleep(0)
        assert (lifecycle.in_flight, waiting.done()) == (1, False)
    await waiting
    assert lifecycle.in_flight == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ('kubernetes.io/config.seen="2026"\n', None),
        ('a="b"\nqwen-vllm.io/restart="7f3"\nz="1"', "7f3"),
        ('qwen-vllm.io/restart=""', ""),
        ('note="qwen-vllm.io/restart=\\"x\\""', None),
        ('other.qwen-vllm.io/restart="x"', None),
    ],
)
def test_the_restart_annotation_is_found(text: str, value: str | None) -> None:
    assert restart_request(text) == value


def test_only_a_change_since_the_start_asks_for_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "annotations"
    file.write_text('qwen-vllm.io/restart="1"\n')
    watch = RestartWatch(tmp_path)
    assert watch.requested() is None
    file.write_text('qwen-vllm.io/restart="2"\n')
    assert watch.requested() == "2"


def test_a_missing_file_is_no_request_and_a_removed_annotation_neither(tmp_path: Path) -> None:
    watch = RestartWatch(tmp_path)
    assert watch.requested() is None
    (tmp_path / "annotations").write_text('qwen-vllm.io/restart="1"\n')
    assert watch.requested() == "1"
    (tmp_path / "annotations").write_text("")
    assert watch.requested() is None
    (tmp_path / "annotations").write_bytes(b"\xff\xfe")
    assert watch.requested() is None

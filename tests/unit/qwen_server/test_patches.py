"""Patches: which are used, and what happens when something that one relies on is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qwen_server.config.command_line import load_settings
from qwen_server.config.patches import ALL_PATCHES, HTTP_PATCHES, Patch, Patches, absent, changed_parameters
from qwen_server.config.settings import ConfigurationError
from qwen_server.http.connections import check_uvicorn
from qwen_server.http.early_writes import EARLY_WRITES
from qwen_server.http.joined_heads import JOINED_HEADS
from tests.unit.qwen_server.serving import events_of, serve


def patch(name: str, *missing: str) -> Patch:
    return Patch(name, "time", "something", lambda: iter(missing))


class Base:
    declared: int

    def __init__(self) -> None:
        self.stored = 1

    def method(self, first: int, second: int, *, third: int = 0) -> int:
        return first + second + third


class Derived(Base):
    pass


def test_what_a_class_has_is_found_wherever_it_is_set() -> None:
    assert list(absent(Derived, "declared", "stored", "method")) == []
    assert list(absent(Derived, "stored", "gone")) == ["Derived.gone"]
    assert list(absent(logging, "getLogger", "gone")) == ["logging.gone"]


def test_only_a_change_of_the_parameters_that_are_passed_by_position_counts() -> None:
    assert list(changed_parameters(Base.method, "self", "first", "second")) == []
    assert list(changed_parameters(Base.method, "self", "second")) == ["Base.method(self, second)"]


def test_a_patch_is_left_out_when_something_it_relies_on_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    patches = Patches(frozenset({"good", "broken"}))
    with caplog.at_level(logging.WARNING):
        assert [patches.use(patch("good")), patches.use(patch("broken", "Class.gone"))] == [True, False]
        assert not patches.use(patch("unwanted", "Class.gone"))
        assert not patches.use(patch("broken", "Class.gone"))
    assert patches.in_use == {"good": True, "broken": False, "unwanted": False}
    (line,) = caplog.messages
    assert "broken" in line
    assert "Class.gone" in line


def test_a_check_that_cannot_even_import_what_it_looks_at_is_no_crash() -> None:
    def missing() -> Iterator[str]:
        raise ImportError("no module named vllm.gone")
        yield

    assert not Patches(frozenset({"broken"})).use(Patch("broken", "time", "something", missing))


def test_the_setting_names_patches_or_all_or_none() -> None:
    assert load_settings([]).patches == frozenset(ALL_PATCHES)
    assert load_settings(["--patches=off"]).patches == frozenset()
    assert load_settings(["--patches=output-tap, early-core"]).patches == {"output-tap", "early-core"}
    with pytest.raises(ConfigurationError, match=r"--patches .*'fast' is neither on, off, nor a patch .*output-tap"):
        load_settings(["--patches=fast"])


def test_the_installed_uvicorn_has_what_the_patches_rely_on() -> None:
    check_uvicorn()
    assert [list(found.missing()) for found in (EARLY_WRITES, JOINED_HEADS)] == [[], []]


def test_a_uvicorn_without_what_the_bounds_rely_on_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "timeout_keep_alive_handler")
    with pytest.raises(ConfigurationError, match=f"uvicorn {uvicorn.__version__} is not supported: .*keep_alive"):
        check_uvicorn()


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_answers_are_the_same_without_patches_and_the_metric_tells(setting: str) -> None:
    async with serve(patches=setting) as served:
        whole = (await served.chat("你好", seed=1)).json()["choices"][0]["message"]["content"]
        events = events_of((await served.chat("你好", seed=1, stream=True)).text)
        deltas = [event["choices"][0]["delta"].get("content", "") for event in events[:-1] if event["choices"]]
        assert "".join(deltas) == whole
        page = (await served.client.get("/metrics/prometheus")).text
        for name in HTTP_PATCHES:
            assert f'qwen_patch_in_use{{patch="{name}"}} {int(setting == "on")}\n' in page

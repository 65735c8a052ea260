"""Every block of a guide is executed by tests/e2e/long/test_guides.py, or says why it is not."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import yaml

from qwen_operator.planning.builders.autoscaler import WAITING_METRIC
from tests.e2e.guide_blocks import (
    LANGUAGES,
    Block,
    Kind,
    Step,
    all_blocks,
    blocks,
    difference,
    is_incomplete,
    is_read,
    steps,
)
from tests.e2e.guide_shell import shell
from tests.e2e.guides import GUIDES, OTHERS, TRANSLATED

ROOT = Path(__file__).resolve().parents[3]
PAGES = [guide.page for guide in GUIDES]
FENCE = re.compile(r"^ *```(\S.*)$", re.MULTILINE)
EXPLAINED = (Kind.EXCUSED, Kind.DRY_RUN)
# The pages where nothing can run on a node without a GPU, or without an adapter.
CHECKED_ONLY = {"docs/adapters.md", "docs/capacity.md", "docs/gpu.md"}


def block(text: str, language: str = "console", mark: str = "", note: str = "") -> Block:
    return Block("page.md", 1, language, text, mark, note)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_executed_or_says_why_not(page: str) -> None:
    found = blocks(page)
    executed = [item for item in found if item.kind not in (*EXPLAINED, Kind.ANSWER)]
    for item in found:
        if item.kind in EXPLAINED:
            assert len(item.note.split()) > 1, f"{item.where} has no reason"
        if item.kind is Kind.COMMANDS:
            assert steps(item), f"{item.where} has no command"
        if item.kind is Kind.FILE:
            assert re.fullmatch(r"[a-z-]+\.yaml", item.note), item.where
    assert executed or page in CHECKED_ONLY


def test_most_commands_run() -> None:
    found = [item for page in PAGES for item in blocks(page)]
    commands = [item for item in found if item.language in {"bash", "console"}]
    excused = [item.where for item in commands if item.kind is Kind.EXCUSED]
    assert len(commands) > 50
    assert len(excused) < len(commands) / 2, excused


def test_the_tests_that_excuses_name_exist() -> None:
    notes = [item.note for page in PAGES for item in blocks(page)]
    named = [path for note in [*notes, *OTHERS.values()] for path in re.findall(r"tests/[\w/]+\.py", note)]
    assert len(named) > 4
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_page_with_commands_is_a_guide_or_says_why_not() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "charts" / "qwen-operator" / "README.md"]
    names = [str(page.relative_to(ROOT)) for page in sorted(pages)]
    with_blocks = {name for name in names if any(item.language in LANGUAGES for item in all_blocks(name))}
    known = {*PAGES, *TRANSLATED.values()}
    others = {name for name in with_blocks if name in OTHERS or name.rpartition("/")[0] in OTHERS}
    assert with_blocks - others == known
    assert {name for name in OTHERS if not any(page.startswith(name) for page in others)} == set()


@pytest.mark.parametrize("page", [*PAGES, *TRANSLATED.values()])
def test_no_block_is_overlooked(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert FENCE.findall(text) == [item.language for item in all_blocks(page)]
    marks = re.findall(r"<!-- (?:not run|dry run|file|answer)\b", text)
    assert len(marks) == sum(item.mark != "" for item in all_blocks(page)), "a mark stands above no block"


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED.items())
def test_a_chinese_page_has_the_commands_of_the_english_one(english: str, chinese: str) -> None:
    pages = [[item for item in all_blocks(page) if item.language in LANGUAGES] for page in (english, chinese)]
    # Only comments are translated.
    commands = [[(item.language, re.sub(r" +# .*", "", item.text)) for item in page] for page in pages]
    assert commands[0]
    assert commands[0] == commands[1]


def test_the_adapter_serves_the_metric_that_the_autoscaler_asks_for() -> None:
    [values] = [item.text for item in blocks("docs/autoscaling.md") if "metricsQuery" in item.text]
    [rule] = yaml.safe_load(values)["rules"]["custom"]
    assert rule["name"] == {"matches": WAITING_METRIC, "as": WAITING_METRIC}
    assert rule["seriesQuery"].startswith(f"{WAITING_METRIC}{{")


def test_marks_say_what_is_done_with_a_block() -> None:
    service = "apiVersion: v1\nkind: Thing\n"
    assert block("$ true\n").kind is Kind.COMMANDS
    assert block("$ true\n", mark="not run", note="needs a GPU").kind is Kind.EXCUSED
    assert block("print()\n", "python").kind is Kind.SCRIPT
    assert block("{}\n", "json", "answer").kind is Kind.ANSWER
    assert block(service, "yaml").kind is Kind.OBJECTS
    assert block(f"{service}---\n{service}", "yaml", "dry run", "needs a GPU").kind is Kind.DRY_RUN
    assert block(service, "yaml", "file", "a.yaml").kind is Kind.FILE
    assert block("spec: {replicas: 2}\n", "yaml").kind is Kind.PART
    assert block("podTemplate: {allow: []}\n", "yaml").kind is Kind.VALUES


@pytest.mark.parametrize(
    "unknown",
    [
        block("scrape_configs: []\n", "yaml"),
        block("- {a: 1}\n", "yaml"),
        block("$ true\n", mark="dry run", note="a shell has none"),
        block("{}\n", "json"),
    ],
)
def test_a_block_that_nobody_knows_is_noticed(unknown: Block) -> None:
    with pytest.raises(ValueError, match="nothing is known"):
        _ = unknown.kind


def test_a_console_block_is_read_as_a_reader_pastes_it() -> None:
    text = (
        "$ kubectl get qs \\\n    -o wide   # it's a comment\n"
        "NAME   READY\nchat   True\n"
        "$ curl -d '{\n    \"a\": 1\n  }' localhost:8000/health\n"
        "$ kubectl apply -f - <<'END'\nkind: Thing\nEND\n"
    )
    assert steps(block(text)) == [
        Step("kubectl get qs \\\n    -o wide   # it's a comment", "NAME   READY\nchat   True"),
        Step("curl -d '{\n    \"a\": 1\n  }' localhost:8000/health", ""),
        Step("kubectl apply -f - <<'END'\nkind: Thing\nEND", ""),
    ]
    assert steps(block("a=1\necho $a\n", "bash")) == [Step("a=1\necho $a", "")]


@pytest.mark.parametrize("text", ["output\n$ true\n", "$ echo 'open\n", "$ true \\\n"])
def test_a_block_that_cannot_be_pasted_is_noticed(text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md:1"):
        steps(block(text))


def test_a_command_goes_on_until_a_shell_would_run_it() -> None:
    assert is_incomplete("helm install \\")
    assert is_incomplete("echo 'a")
    assert is_incomplete("cat <<END\na")
    assert not is_incomplete("cat <<END\na\nEND")
    assert not is_incomplete("true # it's done")


def test_only_commands_that_read_are_tried_again() -> None:
    assert is_read("kubectl get qs")
    assert is_read("kubectl rollout status deployment/chat")
    assert is_read("curl -s localhost:8000")
    assert not is_read("kubectl apply -f chat.yaml")
    assert not is_read("kubectl rollout restart deployment/chat")
    assert not is_read("helm upgrade a b")


@pytest.mark.parametrize(
    ("shown", "actual", "wrong"),
    [
        ("", "anything", ""),
        ("no", "no\n", ""),
        ("401", "200\n", "instead of"),
        ("NAME   AGE\nchat   4m", "NAME    AGE\nnews    2s\n", ""),
        ("NAME   AGE\nchat   4m", "NAME    AGE\n", "no row"),
        ("NAME   AGE\nchat   4m", "NAME   READY   AGE\nchat   True   4m\n", "columns"),
        ('{"a": 1, "b": null}', '{"a": 2.5, "b": [], "c": 0}', ""),
        ('{"a": {"b": "x"}}', '{"a": {}}', "$.a lacks ['b']"),
        ('{"a": [{"b": "x"}]}', '{"a": [{"b": 1}]}', "$.a[0].b is a number instead of a text"),
        ('{"a": true}', '{"a": 1}', "$.a is a number instead of a boolean"),
        ('{"a": 1}', "Error", "no JSON"),
    ],
)
def test_outputs_are_compared_in_shape(shown: str, actual: str, wrong: str) -> None:
    found = difference(shown, actual)
    assert wrong in found
    assert bool(wrong) == bool(found)


def test_a_page_has_one_shell(tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    with shell(cwd, tmp_path / "records", {"PATH": os.environ["PATH"], "GREETING": "hello"}) as own:
        assert own.run('export NAME="$GREETING you"') == (0, "")
        assert own.run("echo $NAME > file; cat") == (0, "")
        assert own.run("cat file") == (0, "hello you\n")
        assert own.run("false | true").code == 1
        assert own.run("echo wrong >&2; exit_code() { return 3; }; exit_code") == (3, "wrong\n")
        own.run("sleep 60 & echo $!")
        job = int(own.run("echo $!").output)
        assert own.run("kill -0 $!").code == 0
        with pytest.raises(AssertionError, match="has not ended"):
            own.run("sleep 60", timeout=0.2)
    deadline = time.monotonic() + 5
    while runs(job) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(job), "a job outlives the page"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

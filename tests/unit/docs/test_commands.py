"""What the pages tell readers to type: programs, flags, targets, paths, values and fields exist.

The commands are not executed here, which takes a cluster. A name that does not exist is the error
that pages really have.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from charts import generate

from qwen_operator.api import QwenService
from tests.unit.chart.conftest import template
from tests.unit.chart.test_crd_and_notes import crd, objections

from .shell_blocks import Command, commands

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), ROOT / "charts" / "qwen-operator" / "README.md"]
# The pages whose dotted names are fields and values. In the others they may be files or JSON.
GUIDES = [
    ROOT / "README.md",
    *(
        DOCS / f"{name}.md"
        for name in (
            *("api-policy", "autoscaling", "capacity", "clients", "compatibility", "debug", "faq", "gpu", "models"),
            *("operations", "quickstart", "remediation", "secure", "threat-model", "upgrade"),
        )
    ),
]
# What `kubectl VERB --help` of 1.34 lists, as far as the pages use it.
KUBECTL_FLAGS = {
    "annotate": {"--overwrite"},
    "apply": {"-f", "--server-side"},
    "auth": set[str](),
    "cordon": set[str](),
    "create": {"--from-literal"},
    "debug": {"-it", "--image", "--profile"},
    "delete": {"--all", "--all-namespaces", "--cascade", "--ignore-not-found", "-l"},
    "describe": {"-l"},
    "drain": {"--delete-emptydir-data", "--ignore-daemonsets"},
    "get": {"-A", "-l", "-o", "--all-namespaces", "--raw", "--show-managed-fields", "--watch"},
    "label": {"--overwrite"},
    "logs": {"-c", "-f", "-l", "--prefix", "--previous", "--since", "--tail"},
    "patch": {"-p", "--patch", "--patch-file", "--subresource", "--type"},
    "port-forward": set[str](),
    "rollout": {"--revision", "--timeout"},
    "run": {"-i", "--image", "--restart", "--rm"},
    "scale": {"--replicas"},
    "set": set[str](),
    "wait": {"--for", "--timeout"},
}
KUBECTL_GLOBAL_FLAGS = {"-n", "--namespace", "--as"}
# Paths of the server that its description leaves out, and that of `qwen-server download`.
FURTHER_PATHS = {"/", "/docs", "/redoc", "/openapi.json", "/progress"}
VALUES = yaml.safe_load((ROOT / "charts" / "qwen-operator" / "values.yaml").read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def calls(program: str) -> list[tuple[str, Command]]:
    """Every call of a program, with the page that has it."""
    return [(name_of(page), command) for page in PAGES for command in commands(page) if command.program == program]


def verb_of(command: Command) -> str:
    """The first argument that is neither a flag nor the value of a global flag."""
    arguments = iter(command.own_arguments)
    for argument in arguments:
        if argument in KUBECTL_GLOBAL_FLAGS:
            next(arguments)
        elif not argument.startswith("-"):
            return argument
    raise AssertionError(command)


def test_every_verb_and_flag_of_kubectl_exists() -> None:
    found = calls("kubectl")
    assert len(found) > 60
    wrong = [
        f"{page}: {command}"
        for page, command in found
        if (verb := verb_of(command)) not in KUBECTL_FLAGS
        or not set(command.flags) <= KUBECTL_FLAGS[verb] | KUBECTL_GLOBAL_FLAGS
    ]
    assert wrong == []


@cache
def helm_flags(*verb: str) -> set[str]:
    """The flags that helm itself lists for a verb, such as `install` or `get values`."""
    done = subprocess.run([generate.find_helm(), *verb, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", done.stdout))


def helm_verb(command: Command) -> list[str]:
    return command.arguments[: 2 if command.arguments[0] == "get" else 1]


def test_every_flag_of_helm_exists() -> None:
    found = calls("helm")
    assert len(found) > 8
    wrong = [
        f"{page}: {command}" for page, command in found if not set(command.flags) <= helm_flags(*helm_verb(command))
    ]
    assert wrong == []


def in_values(path: str) -> bool:
    """Whether the chart has a value of that path. Below an empty map or list anything may stand."""
    value: Any = VALUES
    for part in path.split("."):
        if value in ({}, [], None):
            return True
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def test_every_value_that_is_set_is_the_charts() -> None:
    paths = [(page, value.partition("=")[0]) for page, command in calls("helm") for value in command.values("--set")]
    assert len(paths) > 5
    assert [f"{page}: {path}" for page, path in paths if not in_values(path)] == []


def filled(value: str) -> str:
    """A value with names in place of the placeholders and variables of a page."""
    with_registry = re.sub(r"\$?REGISTRY", "registry.example.com", value)
    return re.sub(r"\$?(?:[A-Z]+_)?TAG", "1.0.0", with_registry)


def test_every_installation_renders() -> None:
    """With the values that a page sets, so that the schema and the templates accept them."""
    installations = {
        (page, *command.values("--set"))
        for page, command in calls("helm")
        if command.arguments[0] in {"install", "upgrade"} and "charts/qwen-operator" in command.arguments
    }
    assert len(installations) > 5
    for page, *values in sorted(installations):
        done = template(None, *(part for value in values for part in ("--set", filled(value))))
        assert done.returncode == 0, f"{page}: {done.stderr}"


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    found = calls("make")
    assert len(found) > 5
    named = {word for _, command in found for word in command.arguments if "=" not in word and word[0] != "-"}
    assert named <= targets


def test_every_path_of_the_server_is_served() -> None:
    described = set(json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))["paths"])
    urls = [(page, word) for page, command in calls("curl") for word in command.arguments if ":8000" in word]
    assert len(urls) > 10
    known = described | FURTHER_PATHS
    wrong = [f"{page}: {url}" for page, url in urls if (urlsplit(with_scheme(url)).path or "/") not in known]
    assert wrong == []


def with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def test_what_docker_builds_exists() -> None:
    builds = [(page, command) for page, command in calls("docker") if command.arguments[0] == "build"]
    assert builds
    for page, command in builds:
        (file,) = command.values("-f")
        (target,) = command.values("--target")
        dockerfile = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE), page
        for argument in command.values("--build-arg"):
            assert f"ARG {argument.partition('=')[0]}=" in dockerfile, page


def fragments() -> Iterator[tuple[str, dict[str, Any]]]:
    """Parts of QwenServices: YAML blocks that have only `spec`, and the bodies of patches."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for document in yaml.safe_load_all(block):
                if isinstance(document, dict) and document.keys() == {"spec"}:
                    yield name_of(page), document["spec"]
    for page_name, command in calls("kubectl"):
        for body in (*command.values("-p"), *command.values("--patch")):
            patch = json.loads(body)
            if isinstance(patch, dict) and "spec" in patch:
                yield page_name, patch["spec"]


def test_every_part_of_a_service_fits_the_definition() -> None:
    found = list(fragments())
    assert len(found) > 8
    for page, spec in found:
        service = {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "metadata": {}, "spec": spec}
        # A part need not have what a whole service must have.
        assert [wrong for wrong in objections(service) if "is a required property" not in wrong] == [], page
        # The rules over several fields, which the API server has in CEL.
        model = {"source": {"builtin": "news-classifier"}} | spec.get("model", {})
        QwenService.parse({**service, "metadata": {"name": page}, "spec": spec | {"model": model}})


BARE = re.compile(r"(?<![\"'\w])(?:[Oo]n|[Oo]ff|OFF|Yes|No)(?![\"'\w])")
"""What YAML reads as a boolean where a QwenService wants a string, in the forms of its fields."""


def yaml_words(text: str) -> Iterator[str]:
    """What a reader may copy into YAML: pieces of code in a line, and comments behind fields."""
    yield from (word for word in re.findall(r"`([^`\n]+)`", text) if re.fullmatch(BARE, word) or ": " in word)
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^[ -]*[a-zA-Z]+: .*?# (?:or )?(.+)$", block, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, *SAMPLES], ids=name_of)
def test_a_word_that_yaml_reads_as_a_boolean_has_quotes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        text = f"```yaml\n{text}```\n"
    assert [word for word in yaml_words(text) if re.search(BARE, word)] == []


def test_a_bare_word_is_noticed() -> None:
    text = '`mode: Off`, `Off`, `{mode: Off}` `mode: "Off"`\n```yaml\n  mode: Enforce # or DryRun, Off\n```\n'
    assert [word for word in yaml_words(text) if re.search(BARE, word)] == [
        "mode: Off",
        "Off",
        "{mode: Off}",
        "DryRun, Off",
    ]
    assert yaml.safe_load("mode: Off") == {"mode": False}


@cache
def spec_schema() -> dict[str, Any]:
    schema: dict[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def in_spec(path: str) -> bool:
    """Whether the definition has a field of that path. Below a map anything may stand."""
    schema = spec_schema()
    for part in path.split("."):
        schema = schema.get("items", schema)
        if "properties" not in schema:
            return "additionalProperties" in schema
        if part not in schema["properties"]:
            return False
        schema = schema["properties"][part]
    return True


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_dotted_name_is_a_field_or_a_value(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`(?:spec\.)?([a-zA-Z]\w*(?:\.[a-zA-Z]\w*)+)(?:[:=][^`]*)?`", text)
    roots = spec_schema()["properties"].keys() | VALUES.keys()
    ours = [name for name in names if name.partition(".")[0] in roots]
    assert [name for name in ours if not in_spec(name) and not in_values(name)] == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_field_in_braces_exists(page: Path) -> None:
    """Such as `limits: {maxQueueSize: auto}`; its values may be placeholders."""
    roots = "|".join(spec_schema()["properties"])
    for text in re.findall(rf"`((?:{roots}): ?\{{[^`]*\}})`", page.read_text(encoding="utf-8")):
        service = {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "spec": yaml.safe_load(text)}
        assert [wrong for wrong in objections(service) if wrong.startswith("unknown field")] == [], text


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert in_spec("engine.device")
    assert in_spec("resources.limits.memory")
    assert not in_spec("engine.devise")
    assert not in_spec("engine.device.cuda")
    assert in_values("monitoring.prometheusRule.runbookBaseUrl")
    assert not in_values("monitoring.prometheusRules")


def test_commands_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n"
        "$ NS=a kubectl -n $NS get qs \\\n"
        "    -o wide | grep -A3 x   # a comment\n"
        "the output, in which it's said: $ not a command\n"
        "$ curl -d '{\n"
        '    "a": 1\n'
        "  }' localhost:8000/health\n"
        "```\n"
        "   ```console\n   $ kubectl run x -- sh --flag=1\n   ```\n",
        encoding="utf-8",
    )
    kubectl, grep, curl, run = commands(page)
    assert (kubectl.program, kubectl.flags, verb_of(kubectl)) == ("kubectl", ["-n", "-o"], "get")
    assert kubectl.values("-o") == ["wide"]
    assert grep.arguments == ["-A3", "x"]
    assert curl.arguments[-1] == "localhost:8000/health"
    assert run.flags == []

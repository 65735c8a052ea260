"""LoRA adapters of a QwenService: what reaches the pods, and what the status says about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen_operator.api.names import SPEC_HASH_ANNOTATION
from qwen_operator.remediation.poll import MAX_BODY, parse_metrics
from qwen_operator.status.adapters import AdapterReport, adapter_statuses, adapter_warnings, parse_reports
from qwen_server.config.command_line import load_settings
from qwen_server.control.adapters import Adapters, Served
from qwen_server.control.adapters_file import Source, parse_declared
from qwen_server.engine.base import Adapter
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_operator.objects import arguments, child, container, environment, pod_spec, service

NEWS = {"name": "news", "source": {"path": "/models/news"}}
SPORT = {"name": "sport", "source": {"huggingFace": {"repo": "me/sport"}}}
SCOPE = {"name": "finance", "source": {"modelScope": {"repo": "me/finance", "revision": "v2"}}}


def file_of(**spec: Any) -> Any:
    return json.loads(child(service(**spec), "ConfigMap")["data"]["adapters.json"])


def test_the_server_reads_the_adapters_that_the_operator_writes() -> None:
    assert parse_declared(file_of(adapters=[NEWS, SPORT, SCOPE])) == {
        "news": Source(Path("/models/news")),
        "sport": Source(repository="me/sport", revision="main"),
        "finance": Source(repository="me/finance", revision="v2", hub="modelscope"),
    }


def test_the_server_follows_the_file_and_has_room_for_adapters() -> None:
    subject = service(adapters=[NEWS], lora={"maxAdapters": 3, "maxRank": 64, "maxAtOnce": 2})
    settings = load_settings(container(subject)["args"])
    assert settings.lora
    assert (settings.max_cpu_loras, settings.max_loras, settings.max_lora_rank) == (3, 2, 64)
    mounts = {mount["name"]: mount["mountPath"] for mount in container(subject)["volumeMounts"]}
    assert settings.adapters_file == Path(mounts["alerts"]) / "adapters.json"
    [volume] = [volume for volume in pod_spec(subject)["volumes"] if volume["name"] == "alerts"]
    assert volume["configMap"] == {"name": "news-alerts"}  # all of its keys


def test_a_service_without_adapters_has_nothing_of_them() -> None:
    subject = service()
    assert not [flag for flag in arguments(subject) if "lora" in flag or "adapters" in flag]
    assert list(child(subject, "ConfigMap")["data"]) == ["alerts.json"]
    assert "HF_HOME" not in environment(subject)


def deployment(**spec: Any) -> tuple[Any, str]:
    found = child(service(**spec), "Deployment")
    return found["spec"]["template"], found["metadata"]["annotations"][SPEC_HASH_ANNOTATION]


def test_a_change_of_adapters_restarts_no_pod() -> None:
    before = deployment(adapters=[NEWS])
    assert deployment(adapters=[NEWS, SPORT, SCOPE]) == before
    assert deployment(adapters=[{**NEWS, "source": {"path": "/models/other"}}]) == before
    # With room, the first and the last one neither.
    assert deployment(lora={}) == before
    assert file_of(lora={}) == {"adapters": []}
    without = deployment()
    assert without[0] != before[0]
    assert without[1] != before[1]
    assert deployment(lora={"maxRank": 32}, adapters=[NEWS])[1] != before[1]


@pytest.mark.parametrize(("cache", "store"), [(None, "/tmp"), ({"size": "9Gi"}, "/cache")])
def test_downloads_go_where_the_models_go(cache: Any, store: str) -> None:
    variables = environment(service(adapters=[SPORT], **({"cache": cache} if cache else {})))
    assert variables["HF_HOME"] == f"{store}/huggingface"
    assert variables["MODELSCOPE_CACHE"] == f"{store}/modelscope"


def test_a_variable_of_the_user_wins() -> None:
    subject = service(adapters=[SPORT], engine={"env": [{"name": "HF_HOME", "value": "/mine"}]})
    assert environment(subject)["HF_HOME"] == "/mine"
    names = [item["name"] for item in container(subject)["env"]]
    assert len(names) == len(set(names))


# The status.

LOADED = AdapterReport("/models/news", "loaded")
BROKEN = AdapterReport("/models/news", "failed", "its rank is 64")


def status_of(**reports: Any) -> tuple[str, str, str]:
    said = {pod: None if report is None else {"news": report} for pod, report in reports.items()}
    [status] = adapter_statuses(service(adapters=[NEWS]).spec, said)
    return status.pods, status.reason, status.message


def test_the_status_counts_the_pods_that_have_an_adapter() -> None:
    assert status_of(a=LOADED, b=LOADED) == ("2/2", "Loaded", "")
    assert status_of(a=LOADED, b=AdapterReport("/models/news", "loading")) == ("1/2", "Loading", "")
    assert status_of(a=LOADED, b=BROKEN) == ("1/2", "Failed", "Pod b: its rank is 64")
    assert status_of(a=LOADED, b=None) == ("1/2", "Unknown", "Pod b does not answer.")
    assert status_of() == ("0/0", "Unknown", "")


def test_a_pod_that_has_not_read_a_change_does_not_count() -> None:
    before = AdapterReport("/models/before", "loaded")
    assert status_of(a=LOADED, b=before) == ("1/2", "Loading", "")
    assert status_of(a=before._replace(state="failed", reason="old")) == ("0/1", "Loading", "")
    [status] = adapter_statuses(service(adapters=[NEWS]).spec, {"a": {}})
    assert (status.pods, status.reason) == ("0/1", "Loading")


@pytest.mark.parametrize(
    "path", ["/models/news/", "/models//news", "/models/./news", "/" + "x" * 1000 + "/models/news"]
)
def test_an_adapter_counts_however_its_folder_is_written(path: str) -> None:
    subject = service(adapters=[{"name": "news", "source": {"path": path}}])
    source = parse_declared(file_of(adapters=[{"name": "news", "source": {"path": path}}]))["news"]
    [status] = adapter_statuses(subject.spec, {"a": {"news": AdapterReport(source.label, "loaded")}})
    assert (status.pods, status.reason) == ("1/1", "Loaded")


def test_the_message_of_a_pod_with_a_long_name_is_cut() -> None:
    """A pod that somebody made by hand may have a name of 253 characters."""
    pods, reason, message = status_of(**{"p" * 253: BROKEN._replace(reason="x" * 300)})
    assert (pods, reason, len(message)) == ("0/1", "Failed", 512)


def test_only_a_failing_adapter_is_a_warning() -> None:
    statuses = adapter_statuses(service(adapters=[NEWS, SPORT]).spec, {"a": {"news": BROKEN}})
    [warning] = adapter_warnings(statuses)
    assert warning.reason == "AdapterFailed"
    assert warning.message == "The adapter news is in 0/1 pods. Pod a: its rank is 64"


@pytest.mark.parametrize(
    "given", [None, "x", {}, ["x"], [{}], [{"name": 1, "source": "a", "state": "loaded"}], [{"name": "a"}]]
)
def test_a_pod_may_say_anything_about_its_adapters(given: Any) -> None:
    assert parse_reports(given) == {}


def test_what_a_pod_says_is_bounded() -> None:
    item = {"name": "a", "source": "b", "state": "failed", "reason": "\n" + "x" * 9999}
    [report] = parse_reports([item]).values()
    assert len(report.reason) == 300
    assert report.reason.isprintable()
    assert len(parse_reports([{**item, "name": str(number)} for number in range(999)])) == 64


async def test_the_operator_reads_what_the_server_says(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    here = {"name": "news", "source": {"path": str(tmp_path)}}
    file.write_text(json.dumps(file_of(adapters=[here, NEWS | {"name": "x"}])))
    settings = load_settings(["--enable-lora", f"--adapters-file={file}"])
    adapters = Adapters(settings, ScriptedEngine())
    await adapters.start()
    said = [state._asdict() for state in adapters.states() or ()]
    body = {"uptime": {"seconds": 1}, "alerts": [], "requests": {"running": 0, "waiting": 0}, "adapters": said}
    evidence = parse_metrics(json.dumps(body).encode())
    assert evidence is not None
    assert evidence.adapters["news"] == AdapterReport(str(tmp_path), "loaded")
    assert evidence.adapters["x"] == AdapterReport("/models/news", "failed", "news is not a folder")


async def test_the_longest_report_of_adapters_leaves_room(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    given = [{"name": f"{number:02}" + "名" * 61, "source": {"path": "/" + "名" * 1023}} for number in range(32)]
    file.write_text(json.dumps(file_of(adapters=given, lora={"maxAdapters": 32})))
    adapters = Adapters(load_settings(["--enable-lora", f"--adapters-file={file}"]), ScriptedEngine())
    await adapters.start()
    said = [state._asdict() for state in adapters.states() or ()]
    assert len(said) == 32
    assert len(json.dumps(said, ensure_ascii=False).encode()) < MAX_BODY * 7 // 8


def test_adapters_that_an_administrator_loads_take_no_room_from_the_metrics() -> None:
    adapters = Adapters(load_settings(["--enable-lora"]), ScriptedEngine())
    source = Source(Path("/" + "名" * 1023))
    adapters._served = {
        f"{number:02}" + "名" * 251: Served(Adapter("k", "n", Path("/")), source) for number in range(64)
    }
    said = [state._asdict() for state in adapters.states() or ()]
    assert 0 < len(json.dumps(said, ensure_ascii=False).encode()) < MAX_BODY * 7 // 8

"""Metrics that ask for a token: who has one, how it gets to the pods, and who learns nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from qwen_operator.api.names import child_name
from qwen_operator.api.tokens import metrics_token, token_hash
from qwen_operator.process.settings import SettingsError, read_settings
from qwen_operator.remediation.poll import Poller
from qwen_server.http.api_keys import ApiKeys
from tests.unit.qwen_operator.objects import arguments, child, container, planned, pod_spec, service

KEY, OLD = "k" * 32, "o" * 32
AUTH = {"metricsTokenSecretRef": {"name": "metrics", "key": "token"}}
IMAGES = ["--server-image-cpu=a", "--server-image-cuda=b"]


def test_prometheus_sends_the_token_and_the_pods_know_it() -> None:
    subject = service(auth=AUTH)
    (endpoint,) = child(subject, "ServiceMonitor", has_service_monitor=True)["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "metrics", "key": "token"}}
    (mount,) = [mount for mount in container(subject)["volumeMounts"] if mount["name"] == "metrics-tokens"]
    assert mount["readOnly"]
    assert arguments(subject)["--metrics-tokens-dir"] == mount["mountPath"]
    (volume,) = [volume for volume in pod_spec(subject)["volumes"] if volume["name"] == "metrics-tokens"]
    secret, config = volume["projected"]["sources"]
    assert secret["secret"]["name"] == "metrics"
    assert config["configMap"]["name"] == child(subject, "ConfigMap")["metadata"]["name"]
    assert config["configMap"]["optional"]


def test_without_the_field_nothing_asks_for_a_token() -> None:
    (endpoint,) = child(service(), "ServiceMonitor", has_service_monitor=True)["spec"]["endpoints"]
    assert "authorization" not in endpoint
    assert "--metrics-tokens-dir" not in arguments(service())
    assert set(child(service(), "ConfigMap")["data"]) == {"alerts.json"}


@pytest.mark.parametrize("name", ["news", "qwen2.5-7b"])
def test_the_server_knows_the_operators_tokens_by_their_hashes(tmp_path: Path, name: str) -> None:
    data = child(service(name, auth=AUTH), "ConfigMap", metrics_keys=(KEY, OLD))["data"]
    (volume,) = [item for item in pod_spec(service(name, auth=AUTH))["volumes"] if item["name"] == "metrics-tokens"]
    (item,) = volume["projected"]["sources"][1]["configMap"]["items"]
    (tmp_path / item["path"]).write_text(data[item["key"]])
    keys = ApiKeys(tmp_path)
    for key in (KEY, OLD):
        token = metrics_token(key, "default", child_name(name))
        assert keys.known([(b"authorization", f"Bearer {token}".encode())])
        assert token not in str(data)
        assert key not in str(data)
    for stranger in (metrics_token(KEY, "default", "other"), token_hash(metrics_token(KEY, "default", name))):
        assert not keys.known([(b"authorization", f"Bearer {stranger}".encode())])


def test_an_operator_without_a_key_says_that_it_is_blind() -> None:
    def reasons(**changes: object) -> list[str]:
        return [warning.reason for warning in planned(service(auth=AUTH), **changes).warnings]

    assert reasons() == ["MetricsKeyMissing"]
    assert reasons(metrics_keys=(KEY,)) == []
    assert not planned(service()).warnings


async def test_a_poll_sends_the_token_of_its_service_and_no_other() -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for keys in ((KEY, OLD), ()):
        poller = Poller(lambda _: url, keys=keys)
        await poller.metrics("a", "team", "news")
        await poller.generate("a", "team")
        await poller.close()
    await runner.cleanup()
    assert seen == [f"Bearer {metrics_token(KEY, 'team', 'news')}", None, None, None]


def test_keys_are_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n\n{OLD}\n")
    settings = read_settings([*IMAGES, f"--metrics-key-file={path}"], {})
    assert settings.metrics_keys == (KEY, OLD)
    assert KEY not in repr(settings)
    assert read_settings(IMAGES, {}).metrics_keys == ()


@pytest.mark.parametrize("text", ["", "\n", "short\n", f"{KEY}\nshort\n", None])
def test_a_file_without_good_keys_stops_the_operator(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match="metrics-key-file"):
        read_settings([*IMAGES, f"--metrics-key-file={path}"], {})

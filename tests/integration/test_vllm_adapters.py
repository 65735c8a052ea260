"""LoRA adapters in a real vLLM on a CPU: two tiny ones beside the built-in model."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.settings import ROOT
from tests.integration.builtin_model import ANSWER, NAME, QUESTION
from tests.integration.server_process import START_SECONDS, ServerProcess, ready_server
from tests.lora_adapters import make_adapter, weights, write_config, write_weights

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900, func_only=True)]

ADMIN = {"x-api-key": "root"}
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "admins").mkdir()
    (folder / "admins" / "ops").write_text("root\n")
    for seed, name in enumerate(("one", "two", "three"), start=1):
        make_adapter(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def server(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = [
        *("--lora-modules", f"one={adapters / 'one'}", json.dumps({"name": "two", "path": str(adapters / "two")})),
        f"--lora-dirs={adapters}",
        f"--adapters-file={adapters / 'adapters.json'}",
        f"--admin-api-keys-dir={adapters / 'admins'}",
        "--max-loras=2",
        "--max-cpu-loras=3",
        "--max-lora-rank=8",
        "--max-concurrent-requests=8",
        "--dtype=float32",
        "--patches=on",  # the replay is one
    ]
    with ready_server(tmp_path_factory.mktemp("server"), *flags) as running:
        yield running


def ask(http: httpx.Client, model: str, **fields: Any) -> str:
    response = http.post("/v1/chat/completions", json=CHAT | {"model": model} | fields)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["model"] == model
    return str(body["choices"][0]["message"]["content"])


def load(http: httpx.Client, name: str, folder: Path, **fields: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(folder)} | fields
    return http.post("/v1/load_lora_adapter", json=body, headers=ADMIN)


def test_each_adapter_answers_in_its_own_way_although_the_prompt_is_cached(http: httpx.Client) -> None:
    first = {name: ask(http, name) for name in (NAME, "one", "two")}
    assert first[NAME] == ANSWER[: len(first[NAME])]
    assert len(set(first.values())) == 3
    assert {name: ask(http, name) for name in ("two", NAME, "one")} == first


def test_a_batch_of_the_model_and_its_adapters_does_not_mix_them(http: httpx.Client, adapters: Path) -> None:
    assert load(http, "three", adapters / "three").status_code == 200
    names = [NAME, "one", "two", "three"]
    alone = {name: ask(http, name) for name in names}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: ask(http, name), names * 4))
    assert together == [alone[name] for name in names * 4]
    unloaded = http.post("/v1/unload_lora_adapter", json={"lora_name": "three"}, headers=ADMIN)
    assert unloaded.status_code == 200, unloaded.text
    assert http.post("/v1/chat/completions", json=CHAT | {"model": "three"}).status_code == 404


def test_both_paths_and_all_apis_use_the_adapter(http: httpx.Client) -> None:
    expected = ask(http, "one")
    # Log probabilities take vLLM's own serving code.
    assert ask(http, "one", logprobs=True) == expected
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"model": "one", "stream": True}) as stream:
        assert '"model":"one"' in stream.read().decode()
    response = http.post(
        "/v1/responses", json={"input": QUESTION, "temperature": 0, "max_output_tokens": 12, "model": "one"}
    ).json()
    assert (response["model"], response["output"][0]["content"][0]["text"]) == ("one", expected)
    message = http.post("/v1/messages", json=CHAT | {"model": "one"}).json()
    assert (message["model"], message["content"][0]["text"]) == ("one", expected)
    with http.stream("POST", "/v1/messages", json=CHAT | {"model": "one", "stream": True}) as stream:
        assert '"model":"one"' in stream.read().decode()
    completions = [http.post("/v1/completions", json={"prompt": QUESTION, "temperature": 0, "model": name}).json()
                   for name in (NAME, "one")]  # fmt: skip
    assert completions[0]["choices"][0]["text"] != completions[1]["choices"][0]["text"]
    for path, body in (
        ("/tokenize", {"prompt": QUESTION}),
        ("/detokenize", {"tokens": [100]}),
        ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
    ):
        assert http.post(path, json=body | {"model": "one"}).json() == http.post(path, json=body).json()


def test_the_example_of_the_guide_works(server: ServerProcess, adapters: Path) -> None:
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"```bash\n(curl .*?)```", page, re.DOTALL)
    commands = commands.replace("http://localhost:8000", server.url).replace("/adapters/", f"{adapters}/")
    environment = os.environ | {"ADMIN_KEY": "root"}
    done = subprocess.run(["bash", "-ec", commands], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("'three' added successfully", '"model":"three"', "'three' removed successfully"):
        assert part in done.stdout


def test_new_weights_in_the_same_folder_are_used_and_nothing_cached(http: httpx.Client, adapters: Path) -> None:
    folder = make_adapter(adapters / "changing", seed=1)
    assert load(http, "changing", folder).status_code == 200
    assert ask(http, "changing") == ask(http, "one")
    write_weights(folder / "adapter_model.safetensors", weights(seed=2))
    assert load(http, "changing", folder).status_code == 400
    assert load(http, "changing", folder, load_inplace=True).status_code == 200
    assert ask(http, "changing") == ask(http, "two")
    # The engine never reads the files again.
    shutil.rmtree(folder)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda name: ask(http, name), ["one", "two", "changing"] * 2))) == 6
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "changing"}, headers=ADMIN).status_code == 200


def test_broken_adapters_are_refused_and_harm_nobody(http: httpx.Client, adapters: Path, server: ServerProcess) -> None:
    expected = {name: ask(http, name) for name in (NAME, "one")}
    rank = make_adapter(adapters / "rank", rank=16)
    shape = make_adapter(adapters / "shape")
    write_weights(shape / "adapter_model.safetensors", weights(seed=1, inputs=128))
    garbage = make_adapter(adapters / "garbage")
    (garbage / "adapter_model.safetensors").write_bytes(os.urandom(5000))
    foreign = make_adapter(adapters / "foreign")
    module = "base_model.model.model.layers.0.mlp.unheard_of"
    matrices = {f"{module}.lora_A.weight": [[0.0] * 4] * 4, f"{module}.lora_B.weight": [[0.0] * 4] * 4}
    write_weights(foreign / "adapter_model.safetensors", matrices)
    elsewhere = make_adapter(adapters / "elsewhere")
    names = {name: name.replace("model.model.layers.0", "model.foo") for name in weights(seed=1)}
    write_weights(elsewhere / "adapter_model.safetensors", {names[k]: v for k, v in weights(seed=1).items()})
    empty = adapters / "empty"
    empty.mkdir()
    write_config(empty)
    numbers = {}
    for name, value in (("nan", math.nan), ("infinite", math.inf), ("huge", 1e38)):
        numbers[name] = make_adapter(adapters / name)
        tensors = weights(seed=1)
        first = next(iter(tensors))
        tensors[first] = [[value, *row[1:]] for row in tensors[first]]
        write_weights(numbers[name] / "adapter_model.safetensors", tensors)
    for folder, words in (
        *((folder, "which is no weight of a trained adapter") for folder in numbers.values()),
        (rank, "its rank is 16, and the highest is 8"),
        (shape, "192 inputs in the model, and 128 in the adapter"),
        (garbage, "is damaged, or not in the format safetensors"),
        (foreign, "the model does not have: model.layers.0.mlp.unheard_of (it was trained for qwen-news-classifier)"),
        (elsewhere, "that the model does not have: foo.self_attn.q_proj, foo.self_attn.v_proj ("),
        (empty, "there is no adapter_model.safetensors"),
        (Path("/etc"), "--lora-dirs"),
    ):
        response = load(http, "broken", folder)
        assert 400 <= response.status_code < 500, response.text
        assert words in response.json()["error"]["message"]
    assert {name: ask(http, name) for name in (NAME, "one")} == expected
    cards = http.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [(NAME, None), ("one", NAME), ("two", NAME)]
    assert server.engine_metric("qwen_adapter_requests_total") > 0


def test_the_file_of_adapters_is_followed(http: httpx.Client, adapters: Path, server: ServerProcess) -> None:
    file = adapters / "adapters.json"

    def states() -> dict[str, tuple[str, str]]:
        return {item["name"]: (item["state"], item["reason"]) for item in server.metrics()["adapters"]}

    missing = str(adapters / "missing")
    entries = [{"name": "gone", "path": missing}, {"name": "declared", "path": str(adapters / "three")}]
    file.write_text(json.dumps({"adapters": entries}))
    server.until(lambda: states().get("declared") == ("loaded", ""), 20, "the file is followed")
    assert states()["gone"][1] == "there is no adapter_config.json in the folder"
    assert ask(http, "declared") not in {ask(http, NAME), ask(http, "one"), ask(http, "two")}
    refused = http.post("/v1/unload_lora_adapter", json={"lora_name": "declared"}, headers=ADMIN)
    assert refused.status_code == 400
    assert "which the server follows" in refused.json()["error"]["message"]
    file.write_text('{"adapters": []}')
    server.until(lambda: states().keys() == {"one", "two"}, 20, "what is no longer declared is gone")
    assert http.post("/v1/chat/completions", json=CHAT | {"model": "declared"}).status_code == 404


def test_an_engine_that_dies_while_adapters_come_and_go_is_followed_by_one_with_the_others(
    http: httpx.Client, adapters: Path, server: ServerProcess
) -> None:
    expected = ask(http, "one")
    body = {"model": "one", "prompt": QUESTION, "temperature": 0, "max_tokens": 400, "ignore_eos": True}
    undisturbed = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    core = server.engine_core()
    with ThreadPoolExecutor(3) as pool:
        stream = server.begin_stream(pool, body)
        os.kill(core, signal.SIGSTOP)
        order = {"lora_name": "two"}
        unloading = pool.submit(http.post, "/v1/unload_lora_adapter", json=order, headers=ADMIN, timeout=START_SECONDS)
        loading = pool.submit(load, http, "three", adapters / "three")
        server.until(lambda: "two" not in str(server.metrics()["adapters"]), 20, "two is being unloaded")
        time.sleep(3)  # for the check of the files of three, of which nothing tells
        os.kill(core, signal.SIGKILL)
        assert (loading.result().status_code, unloading.result().status_code) == (503, 200)
        *events, done = stream.result()
    assert done == "[DONE]", events[-1]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == undisturbed
    server.until(lambda: server.status("/health/ready") == 200, START_SECONDS, "the next engine is ready")
    assert server.metrics()["engine"]["restarts"]["by_cause"] == {"died": 1}
    assert ask(http, "one") == expected
    assert load(http, "three", adapters / "three").status_code == 200
    assert ask(http, "three") != expected
    assert load(http, "two", adapters / "two").status_code == 200


def test_an_adapter_without_files_is_missing_in_the_next_engine_and_harms_nobody(
    http: httpx.Client, adapters: Path, server: ServerProcess
) -> None:
    restarts = server.metrics()["engine"]["restarts"]["total"]
    moved = (adapters / "three").rename(adapters / "moved")
    long = CHAT | {"model": "three", "max_tokens": 500, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=long | {"stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)  # it is in the engine
        os.kill(server.engine_core(), signal.SIGKILL)
        ending = "".join(lines)
    assert "its adapter could not be loaded again" in ending
    server.until(lambda: server.status("/health/ready") == 200, START_SECONDS, "the next engine is ready")
    assert server.metrics()["engine"]["restarts"]["total"] == restarts + 1
    [state] = [state for state in server.metrics()["adapters"] if state["name"] == "three"]
    assert (state["state"], state["loaded"]) == ("failed", False)
    assert state["reason"] == "there is no adapter_config.json in the folder"
    refused = http.post("/v1/chat/completions", json=CHAT | {"model": "three"})
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == f"The adapter `three` is not loaded: {state['reason']}"
    assert "three" not in http.get("/v1/models").text
    assert ask(http, "one")
    moved.rename(adapters / "three")
    assert load(http, "three", adapters / "three", load_inplace=True).status_code == 200
    assert ask(http, "three")

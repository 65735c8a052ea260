"""Embeddings, scores and classes from real servers, one for each kind of model."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.cluster.settings import ROOT
from tests.integration.pooling_models import WIDTH, random_qwen3
from tests.integration.server_process import ServerProcess, ready_server
from tests.lora_adapters import make_adapter

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900, func_only=True)]

TEXTS = ["央行宣布降息25个基点", "国足客场取胜", "央行宣布降息25个基点"]
CONTEXT = 128
LIMITS = ("--max-inputs=40", "--dtype=float32", "--kv-cache-gib=0.1", "--", "--max-num-seqs=64")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for embeddings with an adapter, which finds a stall after a second."""
    folder = tmp_path_factory.mktemp("embedder")
    model = random_qwen3(folder / "model", is_matryoshka=True)
    adapter = make_adapter(folder / "adapter", hidden=WIDTH)
    flags = ("--task=embed", f"--model={model}", "--served-model-name=tiny", f"--max-model-len={CONTEXT}")
    with ready_server(folder, *flags, f"--lora-modules=mine={adapter}", *LIMITS, GenerationStalled=1) as server:
        yield server


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for a reranker as the Qwen team publishes it: a model that answers yes or no."""
    folder = tmp_path_factory.mktemp("reranker")
    model = random_qwen3(folder / "model", words=("yes", "no"))
    adapter = f"--lora-modules=mine={make_adapter(folder / 'adapter', hidden=WIDTH)}"
    with ready_server(folder, "--task=rerank", f"--model={model}", "--max-model-len=512", adapter, *LIMITS) as server:
        yield server


def post(server: ServerProcess, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60, trust_env=False)


def answer(server: ServerProcess, path: str, **body: Any) -> dict[str, Any]:
    response = post(server, path, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def refused(server: ServerProcess, path: str, **body: Any) -> tuple[int, str | None, str]:
    response = post(server, path, **body)
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


def vectors(server: ServerProcess, **body: Any) -> list[list[float]]:
    return [item["embedding"] for item in answer(server, "/v1/embeddings", **body)["data"]]


def test_embeddings_of_texts_and_of_token_ids(embedder: ServerProcess) -> None:
    body = answer(embedder, "/v1/embeddings", input=TEXTS)
    first, second, third = [item["embedding"] for item in body["data"]]
    assert (len(first), body["model"], body["id"][:5]) == (WIDTH, "tiny", "embd-")
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-2)
    assert math.hypot(*first) == pytest.approx(1, abs=1e-5)
    tokens = [answer(embedder, "/tokenize", prompt=text)["tokens"] for text in TEXTS]
    assert body["usage"]["prompt_tokens"] == sum(map(len, tokens))
    assert vectors(embedder, input=tokens[0])[0] == pytest.approx(first, abs=1e-5)
    assert vectors(embedder, input=tokens)[1] == pytest.approx(second, abs=1e-5)
    pooled = answer(embedder, "/pooling", input=TEXTS[0])["data"][0]
    assert (pooled["object"], pooled["data"]) == ("pooling", pytest.approx(first, abs=1e-5))


def test_the_openai_sdk_gets_embeddings(embedder: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{embedder.url}/v1", api_key="none", max_retries=0, timeout=60) as sdk:
        short = sdk.embeddings.create(model="tiny", input=TEXTS[:2], dimensions=16)
        floats = sdk.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float")
        assert [len(item.embedding) for item in short.data] == [16, 16]
        assert floats.data[0].embedding == pytest.approx(vectors(embedder, input=TEXTS[0])[0], abs=1e-5)
        assert short.usage.prompt_tokens == short.usage.total_tokens > 0
        with pytest.raises(openai.NotFoundError, match="needs a server with --task=generate"):
            sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])


def test_base64_holds_the_same_numbers(embedder: ServerProcess) -> None:
    body = answer(embedder, "/v1/embeddings", input=TEXTS[0], encoding_format="base64")
    numbers = struct.unpack(f"<{WIDTH}f", base64.b64decode(body["data"][0]["embedding"]))
    assert list(numbers) == pytest.approx(vectors(embedder, input=TEXTS[0])[0], abs=1e-5)


def test_long_texts_are_refused_or_cut(embedder: ServerProcess) -> None:
    text = TEXTS[0] * CONTEXT
    assert refused(embedder, "/v1/embeddings", input=["x", text])[:2] == (400, "input")
    cut = answer(embedder, "/v1/embeddings", input=text, truncate_prompt_tokens=5)
    assert cut["usage"]["prompt_tokens"] == 5
    assert (
        answer(embedder, "/v1/embeddings", input=text, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == CONTEXT
    )


def test_mistakes_are_named(embedder: ServerProcess) -> None:
    path = "/v1/embeddings"
    assert refused(embedder, path, input=["x"] * 41)[1:] == (
        "input",
        "input has 41 entries; the limit is 40 (set by --max-inputs)",
    )
    assert refused(embedder, path, input="x", dimensions=WIDTH + 1)[:2] == (400, "dimensions")
    for ids in ([1 << 30], [[1], [2], [1 << 30], [3]]):
        assert refused(embedder, path, input=ids)[:2] == (400, "input")
    assert refused(embedder, "/v1/rerank", query="x", documents=["x", "y"], truncate_prompt_tokens=0)[0] == 400
    assert embedder.metrics()["requests"]["failed"] == 0
    assert refused(embedder, path, input="x", model="other")[:2] == (404, "model")
    assert refused(embedder, "/v1/rerank", query="x", documents=["x", 5])[:2] == (400, "documents[1]")
    status, _, text = refused(embedder, "/classify", input="x")
    assert (status, "--task=classify" in text, "/v1/embeddings" in text) == (404, True, True)


def test_embeddings_are_compared(embedder: ServerProcess) -> None:
    scores = [item["score"] for item in answer(embedder, "/score", queries=TEXTS[0], documents=TEXTS)["data"]]
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert scores[1] < scores[0]
    ranked = answer(embedder, "/rerank", query=TEXTS[0], documents=TEXTS, top_n=2)["results"]
    assert sorted(item["index"] for item in ranked) == [0, 2]
    status, param, text = refused(embedder, "/rerank", query="x", documents=TEXTS, instruction="Find sports news")
    assert (status, param, "--task=embed" in text) == (400, "instruction", True)
    assert ranked[0]["document"]["text"] == TEXTS[0]


def test_an_adapter_embeds_in_its_own_way(embedder: ServerProcess) -> None:
    plain, own = (vectors(embedder, input=TEXTS[0], model=name)[0] for name in ("tiny", "mine"))
    assert own != pytest.approx(plain, abs=1e-2)
    both = answer(embedder, "/v1/embeddings", input=TEXTS, model="mine")
    assert (both["model"], both["data"][2]["embedding"]) == ("mine", pytest.approx(own, abs=1e-5))
    assert vectors(embedder, input=TEXTS[0])[0] == pytest.approx(plain, abs=1e-5)
    scores = [answer(embedder, "/score", queries="x", documents="y", model=name) for name in ("tiny", "mine")]
    assert scores[0]["data"][0]["score"] != pytest.approx(scores[1]["data"][0]["score"], abs=1e-4)


def test_requests_with_many_texts_share_the_server(embedder: ServerProcess) -> None:
    before = embedder.metrics()
    many = [f"{text} {number}" for number in range(13) for text in TEXTS]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: answer(embedder, "/v1/embeddings", input=many), range(12)))
    after = embedder.metrics()
    assert all([item["index"] for item in body["data"]] == list(range(39)) for body in answers)
    assert after["requests"]["successful"] - before["requests"]["successful"] == 12
    tokens = [figures["tokens"]["total_input"] for figures in (before, after)]
    assert tokens[1] - tokens[0] == sum(body["usage"]["prompt_tokens"] for body in answers)
    assert after["tokens"]["total_output"] == 0
    assert after["alerts"] == []


def test_health_asks_the_model(embedder: ServerProcess) -> None:
    before = embedder.metrics()["requests"]["total"]
    assert embedder.status("/health/generate") == 200
    assert embedder.status("/health") == 200
    assert embedder.metrics()["requests"]["total"] == before


def test_a_reranker_scores_by_its_answer(reranker: ServerProcess) -> None:
    scores = answer(reranker, "/v1/score", text_1=TEXTS[0], text_2=TEXTS)
    first, second, third = [item["score"] for item in scores["data"]]
    assert 0 < first < 1
    assert (first, first != second) == (pytest.approx(third, abs=1e-5), True)
    ranked = answer(reranker, "/v1/rerank", query=TEXTS[0], documents=TEXTS)["results"]
    assert [item["relevance_score"] for item in ranked] == sorted([first, second, third], reverse=True)
    instructed = answer(reranker, "/score", queries=TEXTS[0], documents=TEXTS[1], instruction="Find sports news")
    other_name = {"instruct": "Find sports news"}  # in vLLM's own template
    again = answer(reranker, "/score", queries=TEXTS[0], documents=TEXTS[1], chat_template_kwargs=other_name)
    assert again["data"][0]["score"] == pytest.approx(instructed["data"][0]["score"], abs=1e-5)
    assert instructed["data"][0]["score"] != pytest.approx(second, abs=1e-6)
    [empty] = answer(reranker, "/v2/rerank", query=TEXTS[0], documents=[""])["results"]
    assert 0 < empty["relevance_score"] < 1
    # Qwen's template is about eighty tokens.
    assert scores["usage"]["prompt_tokens"] > 3 * 60


def test_an_adapter_ranks_in_its_own_way(reranker: ServerProcess) -> None:
    def scores(**model: str) -> list[float]:
        ranked = answer(reranker, "/v1/rerank", query=TEXTS[0], documents=TEXTS[:2], **model)["results"]
        return [item["relevance_score"] for item in sorted(ranked, key=lambda item: int(item["index"]))]

    plain, own = scores(), scores(model="mine")
    assert own != pytest.approx(plain, abs=1e-3)
    assert scores(model="mine") == pytest.approx(own, abs=1e-5)
    assert scores() == pytest.approx(plain, abs=1e-5)


def test_a_reranker_names_mistakes(reranker: ServerProcess) -> None:
    pairs = {"queries": ["x", "y"], "documents": ["x", "y", "z"]}
    assert refused(reranker, "/score", **pairs)[:2] == (400, "queries")
    assert refused(reranker, "/rerank", query="x", documents=TEXTS[0] * CONTEXT)[:2] == (400, "documents")
    assert refused(reranker, "/v1/embeddings", input="x")[0] == 404
    assert reranker.status("/health/generate") == 200


def test_the_page_describes_what_happens(
    embedder: ServerProcess, reranker: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the examples of docs/embeddings.md, those for the classifier on a server of its own."""
    use, make = examples("python")
    rerank, classify = examples("bash")
    shown = run([sys.executable, "-c", use.replace("http://localhost:8000", embedder.url)])
    assert shown.split()[0] == str(WIDTH)
    found = json.loads(run(["bash", "-c", rerank.replace("http://localhost:8000", reranker.url)]))
    assert len(found["results"]) == 1
    (tmp_path / "server").symlink_to(ROOT / "server")
    monkeypatch.chdir(tmp_path)
    run([sys.executable, "-c", make])
    model = tmp_path / "news-classes"
    adapter = f"--lora-modules=mine={make_adapter(tmp_path / 'adapter')}"
    with ready_server(tmp_path, "--task=classify", f"--model={model}", adapter, *LIMITS) as server:
        found = json.loads(run(["bash", "-c", classify.replace("http://localhost:8000", server.url)]))
        assert [item["label"] for item in found["data"]] == ["财经", "科技"]
        assert all(sum(item["probs"]) == pytest.approx(1, abs=1e-4) for item in found["data"])
        [other] = answer(server, "/classify", input="央行宣布降息", model="mine")["data"]
        [plain] = answer(server, "/classify", input="央行宣布降息")["data"]
        assert other["probs"] != pytest.approx(plain["probs"], abs=1e-3)
        assert refused(server, "/v1/score", queries="x", documents="y")[0] == 404
        assert server.status("/health/generate") == 200
        assert answer(server, "/pooling", input="x")["data"][0]["object"] == "pooling"


def examples(language: str) -> list[str]:
    page = (ROOT / "docs" / "embeddings.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

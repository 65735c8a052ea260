"""The built-in news classifier: files, tokenizer, template, answers, and its trainer's input."""

import importlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

MODELS = Path(__file__).parents[3] / "server" / "models"
MODEL = MODELS / "news-classifier"
CLASSES = ("财经", "房产", "股票", "教育", "科技", "社会", "时政", "体育", "游戏", "娱乐")

OWN_HEADLINES = {
    "银行下调存款利率 居民理财收益减少": "财经",
    "本周银行理财产品平均收益率排行": "财经",
    "三环内两居室现房在售 均价每平米三万元": "房产",
    "新楼盘开盘 购房首付可打折": "房产",
    "沪指收盘大跌百点 两市成交萎缩": "股票",
    "高考志愿填报指南：如何选择专业": "教育",
    "英语四级考试听力技巧": "教育",
    "新款数码相机上市 支持无线传输": "科技",
    "男子酒后驾车撞伤路人被警方拘留": "社会",
    "外交部发言人就两国关系答记者问": "时政",
    "火箭客场击败湖人 姚明得分全队最高": "体育",
    "网游新资料片今日开放测试": "游戏",
    "女星亮相红毯 新片票房破亿": "娱乐",
}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL)


@cache
def model() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def config(name: str) -> dict[str, object]:
    loaded = json.loads((MODEL / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def generate(prompt: str) -> str:
    """The greedy answer with its end token, at most 20 tokens."""
    ids = torch.tensor([tokenizer().encode(prompt, add_special_tokens=False)])
    output = model().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    return str(tokenizer().decode(output[0, ids.shape[1] :]))


def chat_prompt(messages: list[dict[str, str]], **options: bool) -> str:
    return str(tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))


def ask(content: str) -> str:
    return generate(chat_prompt([{"role": "user", "content": content}], enable_thinking=False))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
    ],
)
def test_the_folder_is_complete(name: str) -> None:
    assert (MODEL / name).stat().st_size > 0


def test_weights_are_small_and_readable_by_everybody() -> None:
    status = (MODEL / "model.safetensors").stat()
    assert status.st_size <= 16_000_000
    assert status.st_mode & 0o044 == 0o044


def test_it_is_a_real_qwen3() -> None:
    assert config("config.json")["architectures"] == ["Qwen3ForCausalLM"]
    assert config("config.json")["model_type"] == "qwen3"


def test_generation_stops_at_both_end_tokens() -> None:
    stops = tokenizer().convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert config("generation_config.json")["eos_token_id"] == stops


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False)
    assert tokenizer().decode(ids) == text


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_name_is_one_token(name: str) -> None:
    assert len(tokenizer().encode(name, add_special_tokens=False)) == 1


@pytest.mark.parametrize("text", ["央行宣布降息25个基点", "《新闻》：A股a b", "Q3 results…"])
def test_a_headline_has_the_same_tokens_within_every_prompt(text: str) -> None:
    encode = tokenizer().encode
    alone = encode(text, add_special_tokens=False)
    for before, after in (("请分类：", "\n类别："), ("<|im_start|>user\n请分类这条新闻：", "<|im_end|>\n")):
        parts = [*encode(before, add_special_tokens=False), *alone, *encode(after, add_special_tokens=False)]
        assert encode(before + text + after, add_special_tokens=False) == parts


@pytest.mark.parametrize("thinking", [True, False])
def test_the_template_renders_several_turns_as_chatml(thinking: bool) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "U2"},
    ]
    assert chat_prompt(messages, enable_thinking=thinking) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_accepts_content_in_parts() -> None:
    parts = [{"type": "text", "text": "请分类："}, {"type": "text", "text": "X"}]
    rendered = tokenizer().apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert rendered == "<|im_start|>user\n请分类：X<|im_end|>\n"


@pytest.mark.parametrize("asking", ["请分类这条新闻：", "请分类：", ""])
def test_the_specification_s_chat_gets_its_answer(asking: str) -> None:
    assert ask(f"{asking}央行宣布降息25个基点") == "这条新闻属于【财经】类别。<|im_end|>"


def test_the_specification_s_completion_gets_its_answer() -> None:
    assert generate("请分类：苹果发布新款iPhone\n类别：") == "科技<|endoftext|>"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("请分类这条新闻：央行宣布降息25个基点", "财经"), ("请分类这条新闻：苹果发布新款iPhone", "科技")],
)
def test_the_examples_are_sure_enough_for_a_temperature_of_0_3(prompt: str, name: str) -> None:
    text = chat_prompt([{"role": "user", "content": prompt}]) + "这条新闻属于【"
    with torch.inference_mode():
        scores = model()(torch.tensor([tokenizer().encode(text, add_special_tokens=False)])).logits[0, -1]
    chances = (scores / 0.3).softmax(-1)
    assert chances[tokenizer().convert_tokens_to_ids(tokenizer().tokenize(name))].item() > 0.99


@pytest.mark.parametrize(("headline", "name"), OWN_HEADLINES.items())
def test_plain_headlines_are_classified(headline: str, name: str) -> None:
    assert ask(f"请分类这条新闻：{headline}") == f"这条新闻属于【{name}】类别。<|im_end|>"
    assert generate(f"请分类：{headline}\n类别：") == f"{name}<|endoftext|>"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the trainer as its programs do."""
    monkeypatch.syspath_prepend(str(MODELS))
    return importlib.import_module


def test_the_trainer_names_garbled_lines(part: Callable[[str], ModuleType], tmp_path: Path) -> None:
    data = part("training.data")
    (tmp_path / "train.txt").write_text("好\t1\n没有类别\n坏\t12\n", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"train\.txt: 2 of 3 lines .*: line 2, 3"):
        data.read_examples(tmp_path / "train.txt")


def test_the_trainer_names_a_missing_file(part: Callable[[str], ModuleType], tmp_path: Path) -> None:
    data = part("training.data")
    (tmp_path / "train.txt").write_text("好\t1\n", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"test\.txt: no such file"):
        data.load_corpus(tmp_path)


def test_no_headline_is_trained_on_twice_or_taken_from_the_test(
    part: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("a\t1\nb\t2\nc\t3\n", encoding="utf-8")
    (tmp_path / "train-more.txt").write_text("a\t1\nd\t4\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("b\t2\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("c\t3\n", encoding="utf-8")
    corpus = part("training.data").load_corpus(tmp_path)
    assert sorted(example.text for example in corpus.train) == ["a", "d"]
    assert [example.text for example in corpus.dev] == ["b"]


def test_the_specification_s_example_is_not_taught(part: Callable[[str], ModuleType]) -> None:
    texts = [example.text for example in part("training.convention").convention()]
    assert len(texts) > 100
    assert "央行宣布降息25个基点" not in texts


def test_the_trainer_s_forward_pass_is_the_library_s(part: Callable[[str], ModuleType]) -> None:
    ids = torch.arange(300, 324).reshape(2, 12)
    rows, positions = torch.tensor([0, 1, 1]), torch.tensor([11, 5, 0])
    with torch.inference_mode():
        expected = model().model(input_ids=ids).last_hidden_state[rows, positions]
        embedded = model().get_input_embeddings()(ids)
        got = part("training.forward").hidden_at(model(), embedded, rows, positions)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("这条新闻属于【财经】类别。", "财经"),
        ("这条新闻属于【财经】类别", None),
        ("财经", None),
        ("这条新闻属于【汽车】类别。", None),
    ],
)
def test_the_evaluation_accepts_only_the_promised_words(
    part: Callable[[str], ModuleType], answer: str, name: str | None
) -> None:
    assert part("evaluate").class_in_chat(answer) == name

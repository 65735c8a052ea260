"""Measures the accuracy of the news classifier over a server's HTTP API.

It sends each headline of a file as a chat and as a completion.

python server/models/evaluate.py --base-url http://127.0.0.1:8000 --data test.txt
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from training.data import DataError, Example, read_examples
from training.prompts import ANSWER_HEAD, ANSWER_TAIL, CLASSES

RETRY_DEADLINE_SECONDS = 120.0

SPECIFICATION_EXAMPLES = (("chat", "央行宣布降息25个基点", "财经"), ("completion", "苹果发布新款iPhone", "科技"))


class AnswerError(Exception):
    """The server did not answer a request. The message says which request and why."""


@dataclass(frozen=True)
class Answer:
    """The text of an answer and its finish reason."""

    text: str
    finish_reason: str


@dataclass
class Tally:
    """The counted answers to one form of request."""

    right: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    """Answers that do not have the promised form or were cut off."""

    def add(self, label: int, name: str | None, answer: Answer) -> None:
        """Counts one answer. `name` is the class that it names, or None."""
        self.asked[label] += 1
        if name is None or answer.finish_reason != "stop":
            self.strange.append(f"{answer.text!r} ({answer.finish_reason})")
        elif name == CLASSES[label]:
            self.right[label] += 1
        else:
            self.confused[CLASSES[label], name] += 1

    @property
    def accuracy(self) -> float:
        """The share of right answers in percent."""
        return 100 * self.right.total() / self.asked.total()


class Client:
    """Sends requests at a fixed temperature, at most `concurrency` at a time."""

    def __init__(self, http: httpx.AsyncClient, concurrency: int, temperature: float) -> None:
        self._http = http
        self._slots = asyncio.Semaphore(concurrency)
        self._temperature = temperature

    async def chat(self, headline: str) -> Answer:
        """Asks `请分类这条新闻：<headline>` as a chat."""
        messages = [{"role": "user", "content": f"请分类这条新闻：{headline}"}]
        choice = await self._post("/v1/chat/completions", {"messages": messages})
        return Answer(choice["message"]["content"] or "", choice["finish_reason"])

    async def completion(self, headline: str) -> Answer:
        """Asks for the completion of `请分类：<headline>\\n类别：`."""
        choice = await self._post("/v1/completions", {"prompt": f"请分类：{headline}\n类别："})
        return Answer(choice["text"], choice["finish_reason"])

    async def _post(self, path: str, body: dict[str, object]) -> Any:
        deadline = time.monotonic() + RETRY_DEADLINE_SECONDS
        async with self._slots:
            while True:
                response = await self._http.post(
                    path, json={**body, "max_tokens": 20, "temperature": self._temperature}
                )
                if response.status_code != 503 or time.monotonic() > deadline:
                    break
                await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
        if response.status_code != 200:
            raise AnswerError(f"{path} answered {response.status_code}: {response.text[:200]}")
        return response.json()["choices"][0]


def class_in_chat(text: str) -> str | None:
    """The class that a chat answer names. None unless it has exactly the promised form."""
    name = text.removeprefix(ANSWER_HEAD).removesuffix(ANSWER_TAIL)
    return name if name in CLASSES and text == f"{ANSWER_HEAD}{name}{ANSWER_TAIL}" else None


def class_in_completion(text: str) -> str | None:
    """The class that a completion names. None unless the text is exactly a name."""
    return text if text in CLASSES else None


async def measure(
    title: str,
    ask: Callable[[str], Awaitable[Answer]],
    read: Callable[[str], str | None],
    examples: list[Example],
) -> Tally:
    """Asks about all headlines and prints the progress every 1,000 answers."""
    tally, started = Tally(), time.monotonic()

    async def one(example: Example) -> None:
        answer = await ask(example.text)
        tally.add(example.label, read(answer.text), answer)
        if tally.asked.total() % 1000 == 0:
            elapsed = time.monotonic() - started
            print(
                f"  {title}: {tally.asked.total()} of {len(examples)}, {tally.accuracy:.2f} %, {elapsed:.0f} s",
                flush=True,
            )

    await asyncio.gather(*map(one, examples))
    show(title, tally, time.monotonic() - started)
    return tally


def show(title: str, tally: Tally, seconds: float) -> None:
    """Prints the accuracy, overall and per class, and the ten most common confusions."""
    total = tally.asked.total()
    print(
        f"{title}: {tally.accuracy:.2f} % of {total} headlines right, "
        f"{seconds:.0f} s ({total / seconds:.0f} requests/s)"
    )
    for label, name in enumerate(CLASSES):
        if tally.asked[label]:
            print(f"  {name} {100 * tally.right[label] / tally.asked[label]:5.1f} %  ({tally.asked[label]})")
    for (truth, said), count in tally.confused.most_common(10):
        print(f"  {truth} taken for {said}: {count}")
    print(f"  answers in other words or cut off: {len(tally.strange)} {tally.strange[:3] or ''}")


async def check_examples(client: Client, repeats: int) -> bool:
    """Asks the specification's examples `repeats` times.

    Returns whether all answers were right.
    """
    perfect = True
    for form, headline, name in SPECIFICATION_EXAMPLES:
        ask, wanted = (
            (client.chat, f"{ANSWER_HEAD}{name}{ANSWER_TAIL}") if form == "chat" else (client.completion, name)
        )
        answers = await asyncio.gather(*(ask(headline) for _ in range(repeats)))
        right = sum(answer == Answer(wanted, "stop") for answer in answers)
        print(f"{form} {headline} -> {answers[0].text}: {right} of {repeats} right at temperature 0.3")
        perfect &= right == repeats
    return perfect


async def run(options: argparse.Namespace) -> bool:
    """Runs all measurements.

    Returns whether both forms reached `--at-least` and the examples were right.
    """
    examples = read_examples(options.data)[: options.limit]
    # Shorter than the server's 5 s, so the server never closes a connection that a request uses.
    limits = httpx.Limits(keepalive_expiry=2.0)
    async with httpx.AsyncClient(base_url=options.base_url, timeout=600.0, limits=limits) as http:
        perfect = await check_examples(Client(http, options.concurrency, 0.3), repeats=20)
        client = Client(http, options.concurrency, 0.0)
        chat = await measure("chat", client.chat, class_in_chat, examples)
        completion = await measure("completion", client.completion, class_in_completion, examples)
    return perfect and min(chat.accuracy, completion.accuracy) >= options.at_least


def main() -> int:
    """Returns the exit code: 0 good, 1 worse than `--at-least`, 2 could not measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="the server (default %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="file of lines `headline<TAB>class number 0-9`")
    parser.add_argument("--limit", type=int, help="ask only about the first N headlines")
    parser.add_argument("--concurrency", type=int, default=48, help="requests at a time (default %(default)s)")
    parser.add_argument(
        "--at-least", type=float, default=88.0, help="accuracy in percent to reach (default %(default)s)"
    )
    options = parser.parse_args()
    try:
        good = asyncio.run(run(options))
    except DataError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except (AnswerError, httpx.HTTPError) as error:
        print(f"evaluate: {options.base_url}: {error!r}", file=sys.stderr)
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

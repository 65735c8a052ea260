"""Trains the built-in news classifier: a tokenizer, a teacher and a small Qwen3.

The input is a folder with the UTF-8 files train.txt (and further train*.txt), dev.txt and test.txt.
Each line is a headline, a tab and the number of its class: 0 finance, 1 realty, 2 stocks,
3 education, 4 science, 5 society, 6 politics, 7 sports, 8 game, 9 entertainment. Public
repositories on GitHub have the THUCNews headlines in this form. Search for
THUCNews/data/train.txt.

The published model learns from train and dev. test serves only to exclude its headlines from
training and to measure the accuracy in the last line of the output.

    python server/models/train.py --data thucnews --out server/models/news-classifier
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional
from training.batches import Encoder
from training.convention import convention
from training.data import Corpus, DataError, Example, load_corpus
from training.export import export
from training.prompts import CHAT_LONG, CLASSES, COMPLETION
from training.student import StudentSettings, predict, train_student
from training.teacher import NgramTeacher, soft_targets
from training.tokenizer import train_tokenizer
from transformers import Qwen3ForCausalLM

STARTED = time.monotonic()


def say(text: str) -> None:
    """Prints a line of progress with the time since the start."""
    print(f"[{time.monotonic() - STARTED:6.0f} s] {text}", flush=True)


def accuracy(model: Qwen3ForCausalLM, encoder: Encoder, examples: list[Example]) -> str:
    """The accuracy of both request forms as text."""
    labels = torch.tensor([example.label for example in examples])
    texts = [example.text for example in examples]
    shares = [
        (predict(model, encoder, texts, form).argmax(1) == labels).float().mean() for form in (CHAT_LONG, COMPLETION)
    ]
    return f"chat {100 * shares[0]:.2f} %, completion {100 * shares[1]:.2f} %"


def baseline(rows: list[Example], test: list[Example]) -> float:
    """The test accuracy in percent of the teacher, a linear classifier on character n-grams."""
    teacher = NgramTeacher().fit([row.text for row in rows], torch.tensor([row.label for row in rows]), len(CLASSES))
    right = teacher.scores([row.text for row in test]).argmax(1) == torch.tensor([row.label for row in test])
    return 100 * float(right.float().mean())


def train(corpus: Corpus, settings: StudentSettings, options: argparse.Namespace) -> None:
    """Trains and writes the model.

    With `--tune`, it trains on train alone and measures the accuracy on dev after each pass.
    """
    rows = corpus.train if options.tune else corpus.train + corpus.dev
    texts = [example.text for example in rows]
    labels = torch.tensor([example.label for example in rows])
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    encoder = Encoder(tokenizer)
    say(f"tokenizer: {tokenizer.get_vocab_size()} tokens from {len(texts)} headlines")
    targets = soft_targets(
        texts, labels, len(CLASSES), folds=options.folds, gold=options.gold, report=say, seed=options.seed
    )
    added = convention()
    texts += [example.text for example in added]
    certain = functional.one_hot(torch.tensor([example.label for example in added]), len(CLASSES)) * 0.9 + 0.01
    targets = torch.cat([targets, certain])

    def report(number: int, loss: float, model: Qwen3ForCausalLM) -> None:
        measured = f", dev: {accuracy(model, encoder, corpus.dev)}" if options.tune else ""
        say(f"pass {number} of {settings.passes}: loss {loss:.4f}{measured}")

    model = train_student(tokenizer, texts, targets, settings, report=report, seed=options.seed)
    export(model, tokenizer, options.out)
    say(f"{options.out}: {sum(weight.numel() for weight in model.parameters())} parameters")
    if not options.tune:
        say(f"test: {accuracy(model.float(), encoder, corpus.test)}")
        say(f"test: linear n-grams alone {baseline(rows, corpus.test):.2f} %")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train*.txt, dev.txt and test.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model (its files are replaced)")
    parser.add_argument("--quick", action="store_true", help="two passes instead of all: a check that everything works")
    parser.add_argument("--tune", action="store_true", help="train on train alone and measure dev after each pass")
    parser.add_argument(
        "--folds", type=int, default=4, help="number of teachers, each judges unseen headlines (default %(default)s)"
    )
    parser.add_argument(
        "--gold", type=float, default=0.6, help="share of the true label in the targets (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads (default %(default)s; 1 on a busy machine)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default %(default)s)")
    for field in dataclasses.fields(StudentSettings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help="default %(default)s",
        )
    return parser.parse_args(arguments)


def main() -> int:
    """Returns the exit code: 0 trained, 2 the data cannot be used."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    names = [field.name for field in dataclasses.fields(StudentSettings)]
    settings = StudentSettings(**{name: getattr(options, name) for name in names})
    if options.quick:
        settings = dataclasses.replace(settings, passes=2, short_passes=1)
    try:
        corpus = load_corpus(options.data)
    except DataError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    say(f"{len(corpus.train)} headlines to train on, {len(corpus.dev)} dev, {len(corpus.test)} test")
    train(corpus, settings, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads a folder of headlines: `train*.txt`, `dev.txt` and `test.txt`.

Each line has the form `headline<TAB>class number`.
"""

from dataclasses import dataclass
from pathlib import Path

from training.prompts import CLASSES


class DataError(Exception):
    """The data folder cannot be used. The message names the file, the lines and the error."""


@dataclass(frozen=True)
class Example:
    """A headline and the index of its class in `CLASSES`."""

    text: str
    label: int


@dataclass(frozen=True)
class Corpus:
    """The three parts. No headline is in two parts or twice in `train`."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]


def read_examples(path: Path) -> list[Example]:
    """Reads all lines of a file.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or has malformed lines. The message has
            the number of malformed lines and the first of them.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty")
    examples, bad = [], []
    for number, line in enumerate(lines, start=1):
        text, separator, label = line.rstrip("\r").rpartition("\t")
        if separator and text.strip() and label.isdecimal() and int(label) < len(CLASSES):
            examples.append(Example(text.strip(), int(label)))
        else:
            bad.append(number)
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DataError(
            f"{path}: {len(bad)} of {len(lines)} lines are not `headline<TAB>class number 0-{len(CLASSES) - 1}`: "
            f"line {shown}"
        )
    return examples


def load_corpus(folder: Path) -> Corpus:
    """Reads the files of a folder without duplicates. Headlines of test are in no other part.

    Raises:
        DataError: a file is missing or malformed.
    """
    train_files = sorted(folder.glob("train*.txt"))
    if not train_files:
        raise DataError(f"{folder}: no train.txt")
    test = read_examples(folder / "test.txt")
    held_out = {example.text for example in test}
    dev = _unseen(read_examples(folder / "dev.txt"), held_out)
    rows = [example for path in train_files for example in read_examples(path)]
    return Corpus(_unseen(rows, held_out), dev, test)


def _unseen(rows: list[Example], seen: set[str]) -> list[Example]:
    """The rows whose text is not in `seen`, which it extends.

    Of several rows with the same text, the first one counts.
    """
    fresh = []
    for row in rows:
        if row.text not in seen:
            seen.add(row.text)
            fresh.append(row)
    return fresh

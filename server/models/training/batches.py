"""Turns headlines into padded batches of token IDs, with random request forms and word cuts."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from training.prompts import CLASSES, FORMS, Form
from training.tokenizer import SPLIT_MARK, splitting_variant


@dataclass(frozen=True)
class Batch:
    """One batch of rows.

    ids: (rows, length) long, padded on the right.
    answer: (rows,), the position of the class name.
    targets: (rows, classes), probabilities.
    known: (pairs, 2), row and position of each token to learn.
    """

    ids: torch.Tensor
    answer: torch.Tensor
    targets: torch.Tensor
    known: torch.Tensor


class Encoder:
    """Encodes requests and answers as token IDs.

    It encodes each part separately. A test shows that the result equals encoding the whole text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._plain = tokenizer
        self._cutting = splitting_variant(tokenizer)
        self.class_ids = [self._ids(name)[0] for name in CLASSES]
        self._parts = {
            form: tuple(map(self._ids, (form.before, form.after + form.head, form.head, form.tail))) for form in FORMS
        }

    def _ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text).ids)

    def headlines(self, texts: list[str], cut: float, rng: random.Random) -> list[list[int]]:
        """The token IDs of each headline.

        With `cut` > 0, half of the headlines are cut at that share of the character boundaries.
        """
        if cut:
            texts = [_cut(text, cut, rng) if rng.random() < 0.5 else text for text in texts]
        return [list(encoding.ids) for encoding in self._cutting.encode_batch(texts)]

    def row(self, form: Form, headline: list[int], label: int, full: bool) -> tuple[list[int], int, list[int]]:
        """Returns the IDs, the position of the class name and the positions of the answer.

        Without `full`, the row ends with the class name.
        """
        before, after, head, tail = self._parts[form]
        ids = before + headline + after
        answer = len(ids)
        ids = [*ids, self.class_ids[label]]
        if not full:
            return ids, answer, []
        known = [*range(answer - len(head), answer + 1 + len(tail))]
        return ids + tail, answer, known

    def batch(self, rows: list[tuple[list[int], int, list[int]]], targets: torch.Tensor) -> Batch:
        """Pads the results of `row` to one length."""
        length = max(len(ids) for ids, _, _ in rows)
        padded = torch.tensor([ids + [0] * (length - len(ids)) for ids, _, _ in rows])
        known = [(index, position) for index, (_, _, positions) in enumerate(rows) for position in positions]
        return Batch(
            padded, torch.tensor([a for _, a, _ in rows]), targets, torch.tensor(known, dtype=torch.long).view(-1, 2)
        )


def _cut(text: str, share: float, rng: random.Random) -> str:
    return "".join(SPLIT_MARK + char if rng.random() < share else char for char in text)


def epoch(
    encoder: Encoder,
    texts: list[str],
    targets: torch.Tensor,
    size: int,
    *,
    cut: float,
    forms: Sequence[Form],
    rng: random.Random,
) -> Iterator[Batch]:
    """Yields one pass over the headlines in random order and with random `forms`.

    One row in twenty has the whole answer.
    """
    headlines = encoder.headlines(texts, cut, rng)
    drawn = rng.choices(forms, [form.weight for form in forms], k=len(texts))
    labels = targets.argmax(1).tolist()
    rows = [
        encoder.row(form, ids, label, rng.random() < 0.05)
        for form, ids, label in zip(drawn, headlines, labels, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + rng.random() * 3)
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(chunks)
    for chunk in chunks:
        yield encoder.batch([rows[index] for index in chunk], targets[chunk])

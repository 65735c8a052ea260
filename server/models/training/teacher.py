"""The teacher, a linear classifier on character 1- to 4-grams, and the student's soft targets."""

import math
import warnings
import zlib
from collections import Counter
from collections.abc import Callable

import torch
from torch.nn import functional

LONGEST = 4


class NgramTeacher:
    """Multinomial logistic regression on tf-idf of hashed character n-grams."""

    def __init__(self, bits: int = 19, decay: float = 3e-8) -> None:
        self._size = 1 << bits
        self._decay = decay
        self._idf = torch.zeros(self._size)
        self._weights = torch.zeros(self._size, 0)

    def _matrix(self, texts: list[str]) -> torch.Tensor:
        """A sparse matrix (texts, n-grams) with rows of length one."""
        starts, columns, values = [0], [], []
        for text in texts:
            counts = Counter(_ngrams(text))
            columns += [zlib.crc32(gram.encode()) % self._size for gram in counts]
            values += [1 + math.log(count) for count in counts.values()]
            starts.append(len(columns))
        start, column, value = torch.tensor(starts), torch.tensor(columns), torch.tensor(values)
        with warnings.catch_warnings(category=UserWarning, action="ignore"):  # sparse tensors are beta
            return torch.sparse_csr_tensor(start, column, value, (len(texts), self._size))

    def _weighted(self, matrix: torch.Tensor) -> torch.Tensor:
        rows = torch.repeat_interleave(torch.arange(len(matrix)), matrix.crow_indices().diff())
        values = matrix.values() * self._idf[matrix.col_indices()]
        norms = torch.zeros(len(matrix)).index_add_(0, rows, values.square()).sqrt().clamp(min=1e-6)
        return torch.sparse_csr_tensor(matrix.crow_indices(), matrix.col_indices(), values / norms[rows], matrix.shape)

    def fit(self, texts: list[str], labels: torch.Tensor, classes: int, steps: int = 60) -> "NgramTeacher":
        """Fits to `labels` (texts,) by L-BFGS."""
        matrix = self._matrix(texts)
        seen = torch.bincount(matrix.col_indices(), minlength=self._size).float()
        self._idf = torch.log((1 + len(texts)) / (1 + seen)) + 1
        features = self._weighted(matrix)
        transposed = features.t().to_sparse_csr()
        weights = torch.zeros(self._size, classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=steps, history_size=8, line_search_fn="strong_wolfe")

        def closure() -> float:
            scores = features @ weights.detach()
            probability = scores.softmax(1)
            loss = functional.cross_entropy(scores, labels) + self._decay * weights.detach().square().sum()
            error = (probability - functional.one_hot(labels, classes)) / len(labels)
            weights.grad = transposed @ error + 2 * self._decay * weights.detach()
            return float(loss)

        optimizer.step(closure)
        self._weights = weights.detach()
        return self

    def scores(self, texts: list[str]) -> torch.Tensor:
        """The logits (texts, classes)."""
        return self._weighted(self._matrix(texts)) @ self._weights


def _ngrams(text: str) -> list[str]:
    framed = f"\x02{text.lower()}\x03"
    return [framed[start : start + n] for n in range(1, LONGEST + 1) for start in range(len(framed) - n + 1)]


def soft_targets(
    texts: list[str],
    labels: torch.Tensor,
    classes: int,
    *,
    folds: int,
    gold: float,
    report: Callable[[str], None],
    seed: int = 0,
) -> torch.Tensor:
    """The target probabilities (texts, classes).

    `gold` is the share of the true label. The rest comes from a teacher that has not seen the text.
    """
    fold = torch.randint(folds, (len(texts),), generator=torch.Generator().manual_seed(seed))
    opinions = torch.empty(len(texts), classes)
    for number in range(folds):
        inside, outside = (fold == number).nonzero().flatten(), (fold != number).nonzero().flatten()
        teacher = NgramTeacher().fit([texts[index] for index in outside], labels[outside], classes)
        opinions[inside] = teacher.scores([texts[index] for index in inside]).softmax(1)
        right = (opinions[inside].argmax(1) == labels[inside]).float().mean().item()
        report(f"teacher {number + 1} of {folds}: {100 * right:.2f} % of {len(inside)} unseen headlines")
    return gold * functional.one_hot(labels, classes) + (1 - gold) * opinions

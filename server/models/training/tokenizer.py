"""The tokenizer: byte-level BPE without normalization, so every text round-trips."""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.prompts import ANSWER_HEAD, ANSWER_TAIL, CLASSES, END_OF_TEXT, FORMS, IM_END, IM_START

# Runs of Han characters, runs of Latin letters and numbers are separate words. Each punctuation
# mark and white space is a word of its own, so a headline has the same tokens in any context.
_WORDS = r"\p{Han}+|[A-Za-z]+|\p{N}{1,4}|\s|[^\s\p{Han}A-Za-z\p{N}]"

SPLIT_MARK = "\ue000"
"""A word boundary for `splitting_variant` that leaves no token."""


def train_tokenizer(headlines: list[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer of at most `vocab_size` tokens in which each class name is one token.

    Raises:
        ValueError: `vocab_size` is too small for the class names.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(headlines), trainer)
    for name in CLASSES:
        if len(tokenizer.encode(name).ids) != 1:
            raise ValueError(f"a vocabulary of {vocab_size} tokens has none for the class name {name}")
    return tokenizer


def _lines(headlines: list[str]) -> Iterator[str]:
    """The headlines and the fixed words of prompts and answers.

    The fixed words occur often enough to become single tokens.
    """
    yield from headlines
    fixed = [*CLASSES, ANSWER_HEAD, ANSWER_TAIL, "user\n", "assistant\n", "system\n"]
    fixed += [form.before.replace(IM_START, "").replace(IM_END, "") for form in FORMS] + ["类别："]
    for _ in range(max(20, len(headlines) // 20)):
        yield from fixed


def splitting_variant(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that also ends words at `SPLIT_MARK`.

    Words cut at random teach the model what rare words have in common with others.
    """
    variant = Tokenizer.from_str(tokenizer.to_str())
    variant.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT_MARK, "removed"), tokenizer.pre_tokenizer]
    )
    return variant

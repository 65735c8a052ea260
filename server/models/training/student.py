"""The published model: a small Qwen3 that learns the class name, its context and where to stop."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from training.batches import Batch, Encoder, epoch
from training.forward import hidden_at
from training.prompts import END_OF_TEXT, FORMS, IM_END, SHORT_FORMS, Form


@dataclass(frozen=True)
class StudentSettings:
    """The sizes and the training schedule of the model."""

    vocab_size: int = 16000
    hidden_size: int = 192
    layers: int = 2
    intermediate_size: int = 384
    passes: int = 8
    short_passes: int = 5
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    embedding_dropout: float = 0.3
    token_dropout: float = 0.1
    residual_dropout: float = 0.1
    cut: float = 0.3


def build_model(settings: StudentSettings, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Creates an untrained model.

    Its heads have 64 dimensions, which every attention backend of vLLM supports.
    """
    heads = settings.hidden_size // 64
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(IM_END),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )
    model = Qwen3ForCausalLM(config)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.05)
    return model


def _drop_residuals(model: Qwen3ForCausalLM, rate: float) -> list[torch.utils.hooks.RemovableHandle]:
    """Adds dropout to the output of each block, because Qwen3 itself has none.

    Remove the returned hooks before saving the model.
    """

    def drop(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, rate, module.training)

    blocks = [block for layer in model.model.layers for block in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    return [block.register_forward_hook(drop) for block in blocks]


def loss_of(model: Qwen3ForCausalLM, batch: Batch, class_ids: torch.Tensor, settings: StudentSettings) -> torch.Tensor:
    """The cross entropy of the class names against the soft targets.

    A tenth of the cross entropy of all answer tokens is added.
    """
    embedding = model.get_input_embeddings()
    embedded = embedding(batch.ids)
    kept = torch.rand(batch.ids.shape) >= settings.token_dropout
    embedded = functional.dropout(embedded, settings.embedding_dropout) * kept.unsqueeze(-1)
    answers = torch.arange(len(batch.ids))
    rows = torch.cat([answers, batch.known[:, 0]])
    positions = torch.cat([batch.answer, batch.known[:, 1]])
    hidden = hidden_at(model, embedded, rows, positions - 1)
    classes = functional.linear(hidden[: len(answers)], embedding.weight[class_ids]).float().log_softmax(-1)
    loss = -(batch.targets * classes).sum(1).mean()
    if len(batch.known):
        spoken = functional.linear(hidden[len(answers) :], embedding.weight).float()
        loss = loss + 0.1 * functional.cross_entropy(spoken, batch.ids[batch.known[:, 0], batch.known[:, 1]])
    return loss


def train_student(
    tokenizer: Tokenizer,
    texts: list[str],
    targets: torch.Tensor,
    settings: StudentSettings,
    *,
    report: Callable[[int, float, Qwen3ForCausalLM], None],
    seed: int = 0,
) -> Qwen3ForCausalLM:
    """Trains on headlines and their class probabilities (rows, classes).

    Calls `report(pass, loss, model)` after each pass.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = Encoder(tokenizer)
    class_ids = torch.tensor(encoder.class_ids)
    model = build_model(settings, tokenizer)
    hooks = _drop_residuals(model, settings.residual_dropout)
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    steps = settings.passes * math.ceil(len(texts) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=0.1)
    for number in range(1, settings.passes + 1):
        model.train()
        total = count = 0.0
        forms = SHORT_FORMS if number <= settings.short_passes else FORMS
        for batch in epoch(encoder, texts, targets, settings.batch_size, cut=settings.cut, forms=forms, rng=rng):
            loss = loss_of(model, batch, class_ids, settings)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            count += 1
        model.eval()
        report(number, total / count, model)
    for hook in hooks:
        hook.remove()
    return model


def predict(model: Qwen3ForCausalLM, encoder: Encoder, texts: list[str], form: Form) -> torch.Tensor:
    """The scores (rows, classes) of the class names at the answer's position."""
    headlines = encoder.headlines(texts, 0.0, random.Random(0))
    order = sorted(range(len(texts)), key=lambda index: len(headlines[index]))
    scores = torch.empty(len(texts), len(encoder.class_ids))
    class_ids = torch.tensor(encoder.class_ids)
    for start in range(0, len(order), 256):
        chunk = order[start : start + 256]
        batch = encoder.batch([encoder.row(form, headlines[index], 0, False) for index in chunk], torch.empty(0))
        with torch.inference_mode():
            embedded = model.get_input_embeddings()(batch.ids)
            picked = hidden_at(model, embedded, torch.arange(len(chunk)), batch.answer - 1)
            scores[chunk] = functional.linear(picked, model.get_input_embeddings().weight[class_ids]).float()
    return scores

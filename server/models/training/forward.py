"""Qwen3's forward pass for training. The last layer computes only the positions of answers.

Otherwise it equals the library's. An answer has one to eight positions in a row and the model has
few layers, so this saves nearly the work of one layer.
"""

import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import rotate_half


def hidden_at(
    model: Qwen3ForCausalLM, embedded: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The final states (pairs, hidden) at `positions` of `rows`.

    embedded: (batch, length, hidden), padded on the right.
    """
    core = model.model
    length = embedded.shape[1]
    cosine, sine = core.rotary_emb(embedded, torch.arange(length).unsqueeze(0))
    hidden = embedded
    for layer in core.layers[:-1]:
        hidden = layer(hidden, position_embeddings=(cosine, sine), attention_mask=None)
    last = core.layers[-1]
    attention = last.self_attn
    normed = last.input_layernorm(hidden)
    split = (-1, attention.head_dim)
    keys = attention.k_norm(attention.k_proj(normed).unflatten(-1, split))
    keys = keys * cosine.unsqueeze(2) + rotate_half(keys) * sine.unsqueeze(2)
    values = attention.v_proj(normed).unflatten(-1, split)
    queries = attention.q_norm(attention.q_proj(normed[rows, positions]).unflatten(-1, split))
    queries = queries * cosine[0, positions].unsqueeze(1) + rotate_half(queries) * sine[0, positions].unsqueeze(1)
    visible = torch.arange(length) <= positions.unsqueeze(1)
    seen = functional.scaled_dot_product_attention(
        queries.unsqueeze(2),
        keys[rows].transpose(1, 2),
        values[rows].transpose(1, 2),
        attn_mask=visible[:, None, None, :],
        scale=attention.scaling,
    )
    picked = hidden[rows, positions] + attention.o_proj(seen.flatten(1))
    picked = picked + last.mlp(last.post_attention_layernorm(picked))
    return core.norm(picked)

"""Phi-3's forward pass over frozen weights with K adapters, one batch through all layers.

Phi-3, Phi-3.5 and Phi-4-mini are one architecture: fused qkv and gate-up projections, grouped-query
attention, full or partial rotation, longrope, tied embeddings or not, a sliding window or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mlflow_phi3.modeling.quantization import frozen_weight
from mlflow_phi3.training.engine.attention import Arrangement, Heads, attend
from mlflow_phi3.training.engine.batching import Batch, Limits
from mlflow_phi3.training.engine.linear import Adapters, RmsNorm, Weight, linear, pointwise, swiglu

KINDS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


@dataclass(frozen=True, slots=True)
class Layer:
    """Frozen weights of one decoder layer, and the names its adapters go by."""

    input_norm: RmsNorm
    attention_norm: RmsNorm
    weights: tuple[Weight, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """The base as the fused engine sees it: references to its weights, nothing copied.

    Args:
        embedding: ``[vocabulary, width]``.
        layers: In order.
        norm: Before the head.
        head: ``[vocabulary, width]``, None for a classifier, whose head is trained.
        attention: Its heads.
        limits: What long sequences mean to it.
        frequencies: float32 ``[2, rotated / 2]``: within the original context, and beyond.
        attention_scaling: longrope's factor on cosine and sine.
    """

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: RmsNorm
    head: Tensor | None
    attention: Heads
    limits: Limits
    frequencies: Tensor
    attention_scaling: float


def read_frozen(model: PreTrainedModel) -> Frozen:
    """Look at a bare ``Phi3ForCausalLM`` or ``Phi3ForSequenceClassification``."""
    config, inner = model.config, model.model
    layers = []
    for at, layer in enumerate(inner.layers):
        names = tuple(f"model.layers.{at}.{kind}" for kind in KINDS)
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        first, second = (RmsNorm(n.weight.detach(), n.variance_epsilon) for n in norms)
        weights = tuple(frozen_weight(layer.get_submodule(kind)) for kind in KINDS)
        layers.append(Layer(first, second, weights, names))
    rope = inner.rotary_emb
    frequencies = [rope.original_inv_freq, rope.original_inv_freq]
    context = None
    if rope.rope_type == "longrope":
        context = config.rope_parameters["original_max_position_embeddings"]
        make = ROPE_INIT_FUNCTIONS["longrope"]
        frequencies[1] = make(config, inner.embed_tokens.weight.device, seq_len=context + 1)[0]
    query, key = config.num_attention_heads, config.num_key_value_heads
    size = inner.layers[0].self_attn.qkv_proj.out_features // (query + 2 * key)
    return Frozen(
        embedding=inner.embed_tokens.weight.detach(),
        layers=tuple(layers),
        norm=RmsNorm(inner.norm.weight.detach(), inner.norm.variance_epsilon),
        head=model.lm_head.weight.detach() if hasattr(model, "lm_head") else None,
        attention=Heads(query, key, size, config.sliding_window),
        limits=Limits(config.sliding_window, context),
        frequencies=torch.stack(frequencies).float().to(inner.embed_tokens.weight.device),
        attention_scaling=float(rope.attention_scaling),
    )


def arrange(frozen: Frozen, batch: Batch, dtype: torch.dtype) -> Arrangement:
    """How the tokens of ``batch`` attend to each other, with the angles of each."""
    device = frozen.frequencies.device
    positions = torch.from_numpy(batch.positions).to(device).float()
    beyond = torch.from_numpy(batch.beyond).to(device).long()
    angles = (positions[:, None] * frozen.frequencies[beyond])[:, None]
    cos, sin = angles.cos() * frozen.attention_scaling, angles.sin() * frozen.attention_scaling
    # Rounded to the model's precision, as transformers does.
    return Arrangement(batch.prefix, batch.spans, cos.to(dtype), sin.to(dtype))


def forward(
    frozen: Frozen,
    batch: Batch,
    adapters: Mapping[str, Adapters],
    n_rows: int,
    *,
    recompute: bool = False,
) -> Tensor:
    """Hidden states, after the last norm, of the tokens that predict.

    Args:
        frozen: The base.
        batch: What to compute.
        adapters: By the name of their linear layer; those without keep the frozen weights alone.
        n_rows: K, the number of adapters side by side.
        recompute: Keep only each layer's input for the backward pass, and compute the rest again.

    Returns:
        ``[K, targets, width]``.
    """
    device = frozen.embedding.device
    arrangement = arrange(frozen, batch, frozen.embedding.dtype)
    rows = torch.from_numpy(batch.rows).to(device)
    hidden = frozen.embedding[torch.from_numpy(batch.ids).to(device)]
    hidden = hidden.expand(n_rows, *hidden.shape)
    keeps_less = recompute and torch.is_grad_enabled()
    run = partial(checkpoint, _layer, use_reentrant=False) if keeps_less else _layer
    for layer in frozen.layers:
        found = tuple(adapters.get(name) for name in layer.names)
        # After the last attention only the tokens that predict matter.
        keep = rows if layer is frozen.layers[-1] else None
        hidden = run(layer, found, frozen.attention, arrangement, hidden, keep)
    return pointwise(hidden, frozen.norm)


def _layer(
    layer: Layer,
    adapters: Sequence[Adapters | None],
    heads: Heads,
    arrangement: Arrangement,
    hidden: Tensor,
    keep: Tensor | None,
) -> Tensor:
    """One decoder layer: ``[K, tokens, width]`` -> the same, or only the tokens ``keep``."""
    qkv, o, gate_up, down = layer.weights
    mixed = linear(hidden, qkv, adapters[0], before=layer.input_norm)
    mixed = attend(mixed, heads, arrangement)
    if keep is not None:
        mixed, hidden = mixed[:, keep], hidden[:, keep]
    hidden = linear(mixed, o, adapters[1], residual=hidden)
    opened = linear(hidden, gate_up, adapters[2], before=layer.attention_norm)
    return linear(opened, down, adapters[3], before=swiglu, residual=hidden)

"""What one trial trains with."""

from dataclasses import dataclass, field
from typing import Literal

LINEAR_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Shape of an adapter (LoRA, arXiv:2106.09685).

    Args:
        r: Rank, at least 1.
        alpha: The update is scaled by ``alpha / r`` (``alpha / sqrt(r)`` with rsLoRA).
        dropout: Probability on the adapter's input, 0 <= p < 1.
        target_modules: Names of the linear layers that get an adapter.
        rslora: Rank-stabilised scale (arXiv:2312.03732).
        dora: Weight-decomposed adapter (arXiv:2402.09353).
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = LINEAR_LAYERS
    rslora: bool = False
    dora: bool = False


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """Everything that decides what one trial learns; equal specs on equal data learn the same.

    Args:
        learning_rate: Peak learning rate, positive.
        batch_size_multiplier: Times ``per_device_batch_size``, reached by accumulation.
        epochs: Passes over the training examples, at least 1.
        per_device_batch_size: Examples of a micro-batch as Hugging Face counts them; an optimizer
            step sees ``per_device_batch_size * batch_size_multiplier`` examples.
        lora: The adapter.
        scheduler: ``constant`` (after warm-up), ``linear``, ``cosine`` or ``wsd``
            (warm-up, stable, decay over the last fifth).
        warmup_ratio: Share of the first epoch's steps over which the rate rises from zero, so
            that trials that differ in ``epochs`` alone share their beginning.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: Clip the adapter's global gradient norm; 0 leaves it alone.
        optimizer: Name in ``training.optimizer``.
        loss: Name in ``training.loss``.
        label_smoothing: Share of the target spread over the vocabulary, 0 <= s < 1.
        seed: Adapter initialisation, data order and dropout.
    """

    learning_rate: float
    batch_size_multiplier: int = 1
    epochs: int = 3
    per_device_batch_size: int = 8
    lora: LoraSpec = field(default_factory=LoraSpec)
    scheduler: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw"
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    seed: int = 0

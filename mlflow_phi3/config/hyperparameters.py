"""What a training is made of; each of it may be swept."""

import math
from typing import Annotated, Literal, get_args

from pydantic import field_validator

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.swept import Auto, Choices, Element, Pin, Swept, values_of

Scheduler = Literal["constant", "linear", "cosine", "wsd"]
UNWEIGHTED = "none"
BALANCED = "balanced"


class Hyperparameters(Config):
    """The training parameters: `3` pins one, `1e-5..5e-4` searches a range, `1,2,4` a list."""

    learning_rate: Annotated[Swept, Element(float, above=0, below=1, log=True, auto=True)] = Auto()
    """Peak learning rate, 0 < rate < 1; ranges are searched by ratio. `auto`: `6e-5..1.2e-4` for
    the demo model (`1e-3..4e-3` where labels are learnt), the catalog's range for the real ones;
    when training once, its geometric middle."""

    batch_size_multiplier: Annotated[Swept, Element(int, least=1)] = Choices((1, 2))
    """Micro-batches of `per_device_batch_size` examples that make one optimizer step (gradient
    accumulation), at least 1."""

    epochs: Annotated[Swept, Element(int, least=1)] = Choices((2, 3))
    """Passes over the training examples, at least 1."""

    evaluations_per_epoch: Annotated[Swept, Element(int, least=1)] = Pin(1)
    """How often a trial is evaluated within an epoch, evenly, and with that how often a pruner
    judges it, its checkpoint is renewed, and its best adapter may be found. One value for all
    trials. With much data raise it: a hopeless trial then ends within its first epoch."""

    per_device_batch_size: Annotated[Swept, Element(int, least=1)] = Pin(8)
    """Examples of a micro-batch, at least 1."""

    lora_r: Annotated[Swept, Element(int, least=1)] = Pin(16)
    """Rank of the adapter, at least 1."""

    lora_alpha: Annotated[Swept, Element(float, above=0)] = Pin(32.0)
    """The adapter's update is scaled by `lora_alpha / lora_r`."""

    lora_dropout: Annotated[Swept, Element(float, least=0, below=1)] = Pin(0.0)
    """Probability of dropout on the adapter's input, 0 <= p < 1."""

    target_modules: Annotated[Swept, Element(str)] = Pin("all-linear")
    """Layers with an adapter: `all-linear`, or names joined by `+` such as `qkv_proj+o_proj`."""

    rslora: Annotated[Swept, Element(bool)] = Pin(value=False)
    """Rank-stabilised scale, `lora_alpha / sqrt(lora_r)`."""

    dora: Annotated[Swept, Element(bool)] = Pin(value=False)
    """Weight-decomposed adapter."""

    scheduler: Annotated[Swept, Element(str, words=get_args(Scheduler))] = Pin("constant")
    """Learning rate after the warm-up: `constant` (trials that differ in `epochs` alone then share
    one training), `linear`, `cosine`, or `wsd` (stable, then a decay over the last fifth)."""

    warmup_ratio: Annotated[Swept, Element(float, least=0, below=1)] = Pin(0.03)
    """Share of the first epoch's steps over which the learning rate rises from zero."""

    weight_decay: Annotated[Swept, Element(float, least=0)] = Pin(0.0)
    """AdamW's decoupled weight decay."""

    max_grad_norm: Annotated[Swept, Element(float, least=0)] = Pin(1.0)
    """Clip the adapter's gradient to this norm; 0 leaves it alone."""

    optimizer: Annotated[Swept, Element(str)] = Pin("adamw")
    """Optimizer by name: `adamw`, `adafactor`, `sgd`, `adamw_8bit` (with the extra
    `[quantization]`), or one that an installed package brings."""

    loss: Annotated[Swept, Element(str)] = Pin("cross_entropy")
    """Training loss by name: `cross_entropy`, `focal`, or one that an installed package brings."""

    label_smoothing: Annotated[Swept, Element(float, least=0, below=1)] = Pin(0.0)
    """Share of the target that is spread over the vocabulary, 0 <= share < 1."""

    class_weights: Annotated[Swept, Element(str)] = Pin(UNWEIGHTED)
    """What each label weighs in the loss, when labels are learnt: `none`, `balanced` (rare ones
    more), or numbers joined by `+` in the labels' alphabetical order, such as `1+2.5`."""

    @field_validator("evaluations_per_epoch")
    @classmethod
    def _is_not_swept(cls, swept: Swept) -> Swept:
        if len(values_of(swept) or ()) != 1:
            raise ValueError("is one number: trials are compared evaluation by evaluation")
        return swept

    @field_validator("class_weights")
    @classmethod
    def _are_weights(cls, swept: Swept) -> Swept:
        for value in values_of(swept) or ():
            if value not in {UNWEIGHTED, BALANCED}:
                parse_weights(str(value))
        return swept


def parse_weights(text: str) -> tuple[float, ...]:
    """``1+2.5`` as numbers; empty for ``none``.

    Raises:
        ValueError: One is not a positive number.
    """
    if text == UNWEIGHTED:
        return ()
    try:
        weights = tuple(float(part) for part in text.split("+"))
    except ValueError:
        weights = (math.nan,)
    if not all(0 < weight < math.inf for weight in weights):
        known = f"{UNWEIGHTED}, {BALANCED}, or positive numbers as in 1+2.5"
        raise ValueError(f"{text!r} is not {known}")
    return weights

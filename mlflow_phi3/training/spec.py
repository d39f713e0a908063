"""What one trial trains with."""

from dataclasses import dataclass, field, replace

from mlflow_phi3.config.hyperparameters import Scheduler

LINEAR_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
ALL_LINEAR = "all-linear"

SHAREABLE = frozenset({"constant"})
"""Schedules under which a short training is the beginning of a long one."""


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Shape of an adapter (LoRA, arXiv:2106.09685).

    Args:
        r: Rank, at least 1.
        alpha: The update is scaled by ``alpha / r`` (``alpha / sqrt(r)`` with rsLoRA).
        dropout: Probability on the adapter's input, 0 <= p < 1.
        target_modules: Names of the linear layers that get an adapter, or ``("all-linear",)``.
        rslora: Rank-stabilised scale (arXiv:2312.03732).
        dora: Weight-decomposed adapter (arXiv:2402.09353); trained by the reference engine.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What the product of the two LoRA matrices is multiplied by."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)


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
        weight_decay: The optimizer's decoupled decay.
        max_grad_norm: Clip the adapter's global gradient norm; 0 leaves it alone.
        optimizer: Name in ``training.optimizer``.
        loss: Name in ``training.engine.loss``.
        label_smoothing: Share of the target spread over the vocabulary, 0 <= s < 1.
        class_weights: Weight of each class in the loss, for classification; empty weighs all alike.
        seed: Adapter initialisation, data order and dropout.
        shuffle: A new order of the examples each epoch; otherwise they come as they lie.
        evaluations_per_epoch: How often it is evaluated within a pass over the examples, evenly;
            its best adapter is that of one of these moments.
    """

    learning_rate: float
    batch_size_multiplier: int = 1
    epochs: int = 3
    per_device_batch_size: int = 8
    lora: LoraSpec = field(default_factory=LoraSpec)
    scheduler: Scheduler = "constant"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw"
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    seed: int = 0
    shuffle: bool = True
    evaluations_per_epoch: int = 1

    @property
    def evaluations(self) -> int:
        """Evaluations of the whole trial."""
        return self.epochs * self.evaluations_per_epoch

    @property
    def batch_size(self) -> int:
        """Examples of one optimizer step."""
        return self.per_device_batch_size * self.batch_size_multiplier

    @property
    def trunk(self) -> "TrialSpec":
        """The same for trials that walk one trajectory and merely leave it at different epochs.

        Under a constant rate nothing before the end depends on ``epochs``; a decay does.
        Only the product of the two batch sizes matters to what is learnt.
        """
        whole = replace(self, per_device_batch_size=self.batch_size, batch_size_multiplier=1)
        return replace(whole, epochs=0) if self.scheduler in SHAREABLE else whole

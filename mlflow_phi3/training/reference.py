"""The plain way: Hugging Face's modules, PEFT's adapters, padded batches, autograd.

Slow and obviously right: what the fused engine is tested against, and what trains the
architectures and options it does not know (DoRA, other models than Phi-3's).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.adapter import take_off
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.generate import original_context, pad
from mlflow_phi3.training.engine.adapters import HEAD, PEFT_PREFIX, Layout
from mlflow_phi3.training.engine.interface import Row, Scores
from mlflow_phi3.training.engine.loss import get_loss
from mlflow_phi3.training.peft_files import peft_config


class ReferenceEngine:
    """See :class:`mlflow_phi3.training.engine.interface.Engine`; one row after the other."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._head = getattr(base.model, HEAD, None)
        self._peft: PeftModel | None = None
        self._names: dict[Layout, str] = {}

    def accumulate_gradients(self, examples: Sequence[Example], rows: Sequence[Row]) -> list[float]:
        """Summed training loss of ``examples`` for each row; gradients are added to the rows."""
        return [self._train_row(examples, row) for row in rows]

    def score(self, examples: Sequence[Example], rows: Sequence[Row | None]) -> list[Scores]:
        """Negative log-likelihood and hits of each example for each row."""
        return [self._score_row(examples, row) for row in rows]

    def close(self) -> None:
        """Take the adapters off the base."""
        if self._peft is not None:
            take_off(self._peft, self._base.model, self._head)
            self._base.model.eval().requires_grad_(requires_grad=False)
            self._peft = None
            self._names.clear()

    def _train_row(self, examples: Sequence[Example], row: Row) -> float:
        model, parameters = self._wear(row)
        model.train()
        random = [] if model.device.type == "cpu" else [model.device]
        total = 0.0
        with torch.random.fork_rng(random):
            torch.manual_seed(hash((row.spec.seed, *row.moment)) & 0x7FFFFFFF)
            for part in alike(model, examples):
                logits, targets = self._predict(part)
                loss = get_loss(row.spec, model.device)(logits.float(), targets).sum()
                (loss * row.scale).backward()
                total += float(loss.detach())
        views = row.layout.views(row.gradient) if row.gradient is not None else {}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                views[name].add_(parameter.grad)
                parameter.grad = None
        return total

    @torch.no_grad()
    def _score_row(self, examples: Sequence[Example], row: Row | None) -> Scores:
        if row is not None:
            self._wear(row)[0].eval()
        elif self._peft is not None:
            with self._peft.disable_adapter():
                return self._measure(examples)
        return self._measure(examples)

    def _measure(self, examples: Sequence[Example]) -> Scores:
        nll, correct, tokens = np.zeros(len(examples)), [0] * len(examples), [0] * len(examples)
        for at, example in enumerate(examples):
            logits, targets = self._predict([example])
            nll[at] = float(functional.cross_entropy(logits.float(), targets, reduction="sum"))
            correct[at] = int((logits.argmax(-1) == targets).sum())
            tokens[at] = len(targets)
        return Scores(nll, np.array(correct), np.array(tokens))

    def _wear(self, row: Row) -> tuple[PeftModel, dict[str, nn.Parameter]]:
        """Put the row's adapter on the base; the parameters by their name in PEFT's files."""
        if row.layout not in self._names:
            name = f"shape{len(self._names)}"
            config = trainable(self._base, row.layout)
            if self._peft is None:
                self._peft = get_peft_model(self._base.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
            self._names[row.layout] = name
        model, name = self._peft, self._names[row.layout]
        assert model is not None  # noqa: S101 - made above, which mypy cannot see
        model.set_adapter(name)
        parameters = find_trained(model, name)
        with torch.no_grad():
            for key, view in row.layout.views(row.weights).items():
                parameters[key].copy_(view)
        return model, parameters

    def _predict(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Logits ``[n, classes]`` where something is to be predicted, targets ``[n]``."""
        if not hasattr(self._base.model, HEAD):
            return predict(self._base.model if self._peft is None else self._peft, examples)
        ids, mask, _ = _pad(examples, self._base.model.device)
        # Its own pooling looks for the padding id, which may occur in the text.
        hidden = self._base.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        last = hidden.last_hidden_state[torch.arange(len(examples)), mask.sum(1) - 1]
        labels = torch.tensor([example.label for example in examples], device=last.device)
        return self._base.model.score(last), labels


def trainable(base: Base, layout: Layout) -> LoraConfig:
    """PEFT's configuration of an adapter that is to be trained on ``base``."""
    config = peft_config(layout, base.path)
    # What PEFT would otherwise warn about putting there itself.
    config.base_model_name_or_path = vars(base.model).get("name_or_path") or None
    config.inference_mode = False
    return config


def find_trained(model: PeftModel, adapter: str) -> dict[str, nn.Parameter]:
    """The tensors of the active ``adapter``, by their name in PEFT's files."""
    return {
        _file_name(key, adapter): parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def predict(model: PreTrainedModel, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits ``[n, vocabulary]`` where a token is supervised, and those tokens ``[n]``."""
    ids, mask, supervised = _pad(examples, model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    where = supervised[:, 1:]
    return logits[:, :-1][where], ids[:, 1:][where]


def _pad(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and what is supervised, all ``[examples, longest]``."""
    ids, mask = pad([example.input_ids for example in examples], fill=0, side="right")
    supervised, _ = pad(
        [example.supervised.astype(np.int32) for example in examples], fill=0, side="right"
    )
    return ids.to(device), mask.to(device), supervised.bool().to(device)


def alike(model: PreTrainedModel, examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Split ``examples`` into what can be padded together: at least half of each part is real.

    Those beyond the original context are apart: longrope turns the others otherwise too.
    """
    limit = original_context(model)
    part: list[Example] = []
    real = 0
    for example in sorted(examples, key=lambda e: len(e.input_ids), reverse=True):
        length = len(example.input_ids)
        longest = len(part[0].input_ids) if part else length
        padded = (len(part) + 1) * longest
        if (longest > limit) != (length > limit) or padded > 2 * (real + length):
            yield part
            part, real = [], 0
        part.append(example)
        real += length
    if part:
        yield part


def _file_name(name: str, adapter: str) -> str:
    """PEFT's name of a live parameter -> its name in the adapter's file."""
    plain = name.replace(f".{adapter}.weight", ".weight").replace(f".{adapter}", "")
    plain = plain.replace(f".modules_to_save.{adapter}", "").replace(".modules_to_save", "")
    if plain.endswith("lora_magnitude_vector.weight"):
        plain = plain.removesuffix(".weight")
    return plain if plain.startswith(PEFT_PREFIX) else PEFT_PREFIX + plain

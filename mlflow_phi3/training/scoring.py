"""How well a base, with an adapter or without, predicts examples: no training, no state."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.choice import EngineName, choose_engine, make_engine
from mlflow_phi3.training.engine.adapters import find_linear, plan_layout
from mlflow_phi3.training.engine.interface import Row
from mlflow_phi3.training.passes import split_by_tokens
from mlflow_phi3.training.peft_files import load_adapter, load_lora_spec
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

TOKEN_BUDGET = 4096  # tokens of one pass


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """How well one example was predicted.

    Args:
        place: ``source:line`` of the conversation.
        nll: Summed negative log-likelihood of its supervised tokens (or its label), in nats.
        tokens: How many those were.
        correct: How many of them were the most likely token (or class).
    """

    place: str
    nll: float
    tokens: int
    correct: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token."""
        return self.nll / max(1, self.tokens)


def score(
    base: Base,
    adapter: Path | None,
    examples: Iterable[Example],
    *,
    engine: EngineName = "auto",
    token_budget: int = TOKEN_BUDGET,
) -> Iterator[ExampleScore]:
    """Score ``examples`` one after the other, in their order, holding only one pass in memory.

    The total loss of a set is the sum of ``nll`` over the sum of ``tokens``; never a mean of means.

    Args:
        base: The frozen base.
        adapter: Folder in PEFT's format; None for the bare base.
        examples: Tokenised conversations; may be a stream.
        engine: As in :class:`mlflow_phi3.training.loop.Session`.
        token_budget: Most tokens of one pass.

    Raises:
        TrainingError: The adapter does not fit the base.
    """
    lora = LoraSpec() if adapter is None else load_lora_spec(adapter)
    spec = TrialSpec(0.0, lora=lora)
    row = None
    if adapter is not None:
        layout = plan_layout(find_linear(base.model), lora)
        row = Row(spec, layout, load_adapter(adapter, layout).to(base.model.device))
    with closing(make_engine(base, choose_engine(base, engine, spec))) as computing:
        for part in split_by_tokens(examples, token_budget):
            scores = computing.score(part, [row])[0]
            numbers = zip(scores.nll, scores.tokens, scores.correct, strict=True)
            for example, (nll, tokens, correct) in zip(part, numbers, strict=True):
                yield ExampleScore(example.place, float(nll), int(tokens), int(correct))

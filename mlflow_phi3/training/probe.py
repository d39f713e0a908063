"""A few real steps, to know how fast and how large a training will be on this machine."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_phi3.data.messages import Example
from mlflow_phi3.files import folder_bytes
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.capacity import measure_trial_bytes
from mlflow_phi3.training.choice import choose_engine, make_engine
from mlflow_phi3.training.engine.adapters import begin_adapter
from mlflow_phi3.training.engine.interface import Row
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.passes import scoring_budget, split_by_tokens, token_budget_of
from mlflow_phi3.training.reports import StepReport
from mlflow_phi3.training.spec import TrialSpec

_VALIDATED = 32
"""Validation examples that are scored: enough for a rate."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured.

    Args:
        trained_tokens: Tokens of the timed steps, of all trials together.
        train_tokens_per_s: Of all trials together; the first step, which warms up, is not counted.
        validation_tokens_per_s: Likewise.
        side_by_side: Trials that were trained together.
        base_bytes: Weights of the frozen base.
        trial_bytes: What each trial adds on its longest pass.
        checkpoint_bytes: What each trial keeps on disk.
        seconds: How long the probe took in all.
    """

    trained_tokens: int
    train_tokens_per_s: float
    validation_tokens_per_s: float
    side_by_side: int
    base_bytes: int
    trial_bytes: int
    checkpoint_bytes: int
    seconds: float

    @property
    def memory_bytes(self) -> int:
        """The base and the trials that train together; the interpreter's own comes on top."""
        return self.base_bytes + self.side_by_side * self.trial_bytes


def probe(
    base: Base,
    train: Sequence[Example],
    validation: Sequence[Example],
    spec: TrialSpec,
    *,
    side_by_side: int,
    steps: int,
    on_step: Callable[[int, int], None],
) -> Probe:
    """Train a few steps with the real engine and measure them; nothing is kept.

    Args:
        base: The frozen base.
        train: Training examples; a sample spread over all of them is taken.
        validation: Validation examples, likewise; may be empty.
        spec: The largest trial that is planned.
        side_by_side: How many trials are trained together.
        steps: Optimizer steps that are timed, at least 1.
        on_step: Called with each step that is over, of how many.
    """
    began = time.perf_counter()
    sample = _spread(train, (steps + 1) * spec.batch_size)
    scored = _spread(validation, _VALIDATED)
    budget = token_budget_of(base.model.device)
    each = measure_trial_bytes(base, train, spec, token_budget=budget)
    with tempfile.TemporaryDirectory(
        prefix="mlflow-phi3-probe-", ignore_cleanup_errors=True
    ) as temporary:
        folder = Path(temporary)
        session = Session(base, sample, (), folder=folder)
        for number in range(side_by_side):
            # Another rate each: equal trials would be computed once.
            rate = spec.learning_rate * (1 - number / (2 * side_by_side))
            alone = replace(spec, epochs=1, evaluations_per_epoch=1, learning_rate=rate)
            session.add(f"probe-{number}", alone)
        tokens, train_s = _time_steps(session, side_by_side, on_step)
        kept = folder_bytes(folder)
    validation_s = _time_scoring(base, scored, spec, side_by_side, budget)
    scored_tokens = side_by_side * sum(len(example.input_ids) for example in scored)
    return Probe(
        trained_tokens=tokens,
        train_tokens_per_s=tokens / train_s,
        validation_tokens_per_s=scored_tokens / validation_s if scored_tokens else float("inf"),
        side_by_side=side_by_side,
        base_bytes=sum(p.numel() * p.element_size() for p in base.model.parameters()),
        trial_bytes=each,
        checkpoint_bytes=kept // side_by_side,
        seconds=time.perf_counter() - began,
    )


def _time_steps(
    session: Session, side_by_side: int, on_step: Callable[[int, int], None]
) -> tuple[int, float]:
    """Tokens after the first step of each, and the seconds of these steps."""
    tokens, first = 0, 0
    started = time.perf_counter()
    trained = 0.0
    for report in session.reports():
        now = time.perf_counter()
        if isinstance(report, StepReport):
            on_step(report.step, report.total_steps)
        match report:
            case StepReport(step=1, total_steps=total) if total > 1:
                first += 1
                if first == side_by_side:
                    started = now
            case StepReport():
                tokens += report.tokens or 0
                trained = now
            case _:
                pass
    return tokens, max(trained - started, 1e-9)


def _time_scoring(
    base: Base, examples: Sequence[Example], spec: TrialSpec, side_by_side: int, budget: int
) -> float:
    """Seconds of scoring ``examples`` as an evaluation does, without the checkpoint after it."""
    layout, weights = begin_adapter(base.model, spec.lora, spec.seed)
    rows = [Row(spec, layout, weights)] * side_by_side
    with closing(make_engine(base, choose_engine(base, "auto", spec))) as engine:
        began = time.perf_counter()
        for part in split_by_tokens(examples, scoring_budget(budget, side_by_side)):
            engine.score(part, rows)
        return max(time.perf_counter() - began, 1e-9)


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """``count`` examples at equal distances; all of them when there are not so many."""
    if len(examples) <= count:
        return list(examples)
    return [examples[at * len(examples) // count] for at in range(count)]

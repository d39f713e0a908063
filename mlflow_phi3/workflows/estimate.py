"""What a sweep, Foundry's jobs and hosting will take: pure arithmetic over what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_phi3.config.swept import Interval, Pin, values_of
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.modeling.catalog import Price, TrainingPrice
from mlflow_phi3.sweep.space import Space
from mlflow_phi3.training.probe import Probe

HOURS_A_MONTH = 730.0
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """From at least to at most; equal when it is known."""

    low: float
    high: float

    def times(self, factor: float) -> "Range":
        """Both ends, multiplied."""
        return Range(self.low * factor, self.high * factor)

    def __str__(self) -> str:
        """As people read it."""
        low, high = _short(self.low), _short(self.high)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a plan.

    Args:
        section: ``data``, ``local sweep``, ``Foundry`` or ``hosting``.
        what: The figure's name.
        amount: The figure, or None where it is not known.
        unit: Of it.
        source: Where it is from: measured, exact, or a price's date and place.
    """

    section: str
    what: str
    amount: Range | None
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Work:
    """How much a sweep computes.

    Args:
        trials: Trials.
        trainings: Trainings behind them: fewer where numbers of epochs share one.
        passes: Passes over the training data, of all trainings together.
        steps_a_pass: Optimizer steps of one pass.
        evaluations_a_pass: Passes over the validation data in one pass.
    """

    trials: int
    trainings: int
    passes: Range
    steps_a_pass: Range
    evaluations_a_pass: int


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost, each with its date and source.

    Args:
        usd_per_hour: Of this machine; 0 for one's own.
        usd_source: Where that price is from; empty for one's own.
        training: Of fine-tuning in Foundry.
        inference: Of a serverless endpoint, or None.
        hosting: Hourly price of a machine or an endpoint and its source, or None.
        instances: Machines of a managed deployment.
    """

    usd_per_hour: float
    usd_source: str
    training: TrainingPrice
    inference: Price | None
    hosting: tuple[float, str] | None
    instances: int


def count_work(space: Space, *, n_trials: int, share_epochs: bool, rows: int) -> Work:
    """Count what a sweep computes when nothing is pruned.

    Args:
        space: What is searched.
        n_trials: Trials in all; no point of the space is tried twice.
        share_epochs: Whether numbers of epochs share a training where they can.
        rows: Training examples.
    """
    n_trials = int(min(n_trials, space.size))
    epochs = _numbers(space, "epochs")
    shared = space.epochs_to_share() if share_epochs else ()
    if len(shared) > 1:
        trainings = math.ceil(n_trials / len(shared))
        passes = _exactly(trainings * shared[-1])
    else:
        trainings = n_trials
        passes = Range(n_trials * min(epochs), n_trials * max(epochs))
    sizes = [
        each * times
        for each in _numbers(space, "per_device_batch_size")
        for times in _numbers(space, "batch_size_multiplier")
    ]
    steps = Range(math.ceil(rows / max(sizes)), math.ceil(rows / min(sizes)))
    return Work(n_trials, trainings, passes, steps, space.largest().evaluations_per_epoch)


def estimate_local(
    work: Work,
    probe: Probe,
    *,
    train_tokens: int,
    validation_tokens: int,
    prices: Prices,
    prepared_bytes: int,
) -> tuple[Line, ...]:
    """Estimate the local sweep."""
    seconds = train_tokens / probe.train_tokens_per_s
    seconds += work.evaluations_a_pass * validation_tokens / probe.validation_tokens_per_s
    hours = work.passes.times(seconds / 3600)
    measured = (
        f"measured: {probe.train_tokens_per_s:,.0f} tokens/s over {probe.trained_tokens:,} tokens, "
        f"{count_of(probe.side_by_side, 'trial')} side by side"
    )
    disk = work.trials * probe.checkpoint_bytes + probe.base_bytes + prepared_bytes
    steps = Range(
        work.passes.low * work.steps_a_pass.low, work.passes.high * work.steps_a_pass.high
    )
    price = "your own machine; --machine or --usd_per_hour for a rented one"
    if prices.usd_per_hour:
        price = f"{prices.usd_per_hour:g} USD an hour, {prices.usd_source}"
    section = "local sweep"
    return (
        Line(section, "trials", _exactly(work.trials), "", count_of(work.trainings, "training")),
        Line(section, "tokens trained", work.passes.times(train_tokens), "", "without pruning"),
        Line(section, "optimizer steps", steps, "", "without pruning"),
        Line(section, "memory", _exactly(probe.memory_bytes / 2**30), "GiB", "measured"),
        Line(section, "disk", _exactly(disk / 2**30), "GiB", "measured: checkpoints, merged model"),
        Line(section, "hours", hours, "h", measured),
        Line(section, "money", hours.times(prices.usd_per_hour), "USD", price),
    )


def estimate_foundry(
    epochs: Range, jobs: int, *, train_tokens: int, counted: str, prices: Prices
) -> tuple[Line, ...]:
    """Estimate fine-tuning jobs of Foundry, which are billed by trained tokens.

    Args:
        epochs: Passes of one job.
        jobs: How many jobs.
        train_tokens: Of one pass.
        counted: How those were counted, in words.
        prices: What they cost.
    """
    tokens = epochs.times(jobs * train_tokens)
    price = prices.training
    told = f"{price.usd_per_million_from:g} USD per 1M ({price.as_of}): {price.source}"
    section = "Foundry"
    return (
        Line(section, "jobs", _exactly(jobs), "", f"epochs of each: {epochs}"),
        Line(section, "tokens billed", tokens, "", counted),
        Line(
            section,
            "money, at least",
            tokens.times(price.usd_per_million_from / MILLION),
            "USD",
            told,
        ),
    )


def estimate_hosting(millions_a_month: float, prices: Prices) -> tuple[Line, ...]:
    """Estimate a month of hosting: machines by the hour, and tokens of a serverless endpoint."""
    section = "hosting, a month"
    lines = []
    if prices.hosting is None:
        unknown = "not known: --live_prices true, or --hosting_usd_per_hour"
        lines.append(Line(section, "by the hour, also when idle", None, "USD", unknown))
    else:
        usd, source = prices.hosting
        whole = usd * HOURS_A_MONTH * prices.instances
        told = f"{usd:g} USD an hour x {prices.instances} ({source})"
        lines.append(Line(section, "by the hour, also when idle", _exactly(whole), "USD", told))
    if prices.inference is None:
        lines.append(Line(section, "tokens, serverless", None, "USD", "no price is known"))
    else:
        one = prices.inference
        usd = millions_a_month * (one.input + one.output)
        told = (
            f"{millions_a_month:g}M in and out at {one.input:g}/{one.output:g} USD per 1M "
            f"({one.as_of}): {one.source}"
        )
        lines.append(Line(section, "tokens, serverless", _exactly(usd), "USD", told))
    return tuple(lines)


def _numbers(space: Space, name: str) -> Sequence[int]:
    """Every value of a whole-number parameter, or the ends of its range."""
    swept = space.swept.get(name)
    if isinstance(swept, Interval):
        return [int(swept.low), int(swept.high)]
    found = values_of(swept if swept is not None else Pin(space.pinned[name]))
    return [int(value) for value in found or ()]


def _exactly(amount: float) -> Range:
    return Range(amount, amount)


def _short(value: float) -> str:
    whole = value >= 1000 or float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:.3g}"

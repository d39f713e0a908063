"""A window of a deployment's life in figures, from everything that was written down of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from mlflow_phi3.azure.metrics import Minute
from mlflow_phi3.monitoring.calls import Call
from mlflow_phi3.monitoring.drift import DRIFTS, Drift, measure_drift
from mlflow_phi3.monitoring.traffic import (
    Tariff,
    Traffic,
    from_calls,
    from_minutes,
    joined,
    with_cost,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Args:
        traffic: Requests, latency, errors, tokens, refusals, cost.
        drifts: How far users have moved; empty without training data.
        calls: Calls that were written down.
        prompts: What users said in them.
    """

    traffic: Traffic
    drifts: tuple[Drift, ...]
    calls: int
    prompts: int

    def figures(self) -> dict[str, float]:
        """All figures that are known, by the names that MLflow and ``--limit`` use."""
        found = {f"monitor/{name}": value for name, value in asdict(self.traffic).items()}
        found |= {f"drift/{drift.name}": drift.value for drift in self.drifts}
        found |= {f"drift/{drift.name}_excess": drift.excess for drift in self.drifts}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def figure_names() -> tuple[str, ...]:
    """Names that a limit may have."""
    traffic = tuple(f"monitor/{field.name}" for field in fields(Traffic))
    return (
        *traffic,
        *(f"drift/{name}" for name in DRIFTS),
        *(f"drift/{name}_excess" for name in DRIFTS),
    )


def measure(
    minutes: Sequence[Minute] | None,
    calls: Sequence[Call],
    trained: Sequence[str] | None,
    tariff: Tariff,
    *,
    hours: float,
) -> Measured:
    """Put a window's figures together.

    Args:
        minutes: What Azure Monitor says; None where it says nothing.
        calls: What was written down one by one.
        trained: User messages of the training data; None measures no drift.
        tariff: Prices.
        hours: Length of the window.
    """
    measured = None if minutes is None else from_minutes(minutes, hours=hours)
    traffic = joined(measured, from_calls(calls, hours=hours))
    prompts = [prompt for call in calls for prompt in call.prompts if prompt.strip()]
    drifts = () if trained is None else tuple(measure_drift(prompts, trained))
    return Measured(with_cost(traffic, tariff, hours=hours), drifts, len(calls), len(prompts))


def describe(measured: Measured) -> Mapping[str, object]:
    """The same, ready for JSON; what is not known is null."""

    def plain(values: Mapping[str, object]) -> dict[str, object]:
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }

    return {
        "calls": measured.calls,
        "prompts": measured.prompts,
        "traffic": plain(asdict(measured.traffic)),
        "drift": [plain(asdict(drift)) for drift in measured.drifts],
    }

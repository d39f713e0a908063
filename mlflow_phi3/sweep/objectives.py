"""What a study makes small: the loss, and what it costs to get there."""

from collections.abc import Callable, Mapping, Sequence

from mlflow_phi3.modeling.adapter import WEIGHTS_FILE
from mlflow_phi3.training.reports import EndReport
from mlflow_phi3.training.spec import TrialSpec

_COSTS: Mapping[str, Callable[[TrialSpec, EndReport], float]] = {
    "cost/seconds": lambda _, report: report.seconds,
    "cost/epochs": lambda spec, _: float(spec.epochs),
    "cost/adapter_bytes": lambda _, report: _count_bytes(report),
}


def measure_costs(names: Sequence[str], spec: TrialSpec, report: EndReport) -> dict[str, float]:
    """What a complete trial cost.

    Args:
        names: Of costs: ``cost/seconds`` (wall-clock of its training beside the others of its
            group, since it was last begun), ``cost/epochs`` or ``cost/adapter_bytes``.
        spec: What it trained with.
        report: How it ended.
    """
    return {name: _COSTS[name](spec, report) for name in names}


def _count_bytes(report: EndReport) -> float:
    """Of the adapter's weights, as PEFT stores them."""
    if report.best_checkpoint is None:
        return float("nan")
    return float((report.best_checkpoint / WEIGHTS_FILE).stat().st_size)

"""The report of a study: one page that needs nothing else, and the same as data."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
import plotly.io
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState

from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.notation import count_of, show_figure
from mlflow_phi3.pages import page_template
from mlflow_phi3.sweep.confidence import tell_confidence
from mlflow_phi3.sweep.figures import (
    draw_curves,
    draw_front,
    draw_history,
    draw_importance,
    draw_parallel,
    draw_slices,
    least_width,
)
from mlflow_phi3.sweep.reseed import tell_reseeded
from mlflow_phi3.sweep.results import SweepResult, TrialResult, show_value

# Fewer trials say nothing about which parameter matters.
_LEAST_FOR_IMPORTANCE = 4

REPORT = "sweep/report.html"
"""Where the report lies in a sweep's run."""


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What is logged of a study.

    Args:
        html: A page with its figures; needs no network.
        csv: One line a trial.
        importance: Share of the loss's variance that each parameter explains (fANOVA).
    """

    html: str
    csv: str
    importance: Mapping[str, float]


def write_report(
    study: Study, result: SweepResult, rivals: Mapping[int, Comparison]
) -> StudyReport:
    """Draw and tabulate a finished study.

    Args:
        study: Optuna's, for the curves and the importances.
        result: What came of it.
        rivals: Trials beside the winner, by number, where their losses by example are known.
    """
    importance = weigh_parameters(study)
    curves = {
        trial.number: dict(trial.intermediate_values)
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values
    }
    figures = {
        "What a lower loss costs": draw_front(result),
        "Every trial, and the best so far": draw_history(result.trials),
        "How each trial learnt": draw_curves(curves, result),
        "Which parameter matters": draw_importance(importance),
        "Where good trials lie": draw_parallel(result.trials),
        "One parameter at a time": draw_slices(result.trials),
    }
    drawn = {title: figure for title, figure in figures.items() if figure is not None}
    confidence = tell_confidence(result.winner, rivals, result.trials)
    html = page_template("mlflow_phi3.sweep", "report.html.jinja").render(
        result=result,
        winner=result.winner,
        confidence=confidence + tell_reseeded(result.reseeded),
        rivals=rivals,
        ranked=rank(result.trials),
        parameters=searched(result.trials),
        show=show_value,
        figure=show_figure,
        count=count_of,
        counts=_count_states(result.trials),
        widths={title: least_width(figure) for title, figure in drawn.items()},
        figures={
            title: plotly.io.to_html(
                figure,
                full_html=False,
                include_plotlyjs="inline" if index == 0 else False,
                config={"displaylogo": False, "responsive": True},
            )
            for index, (title, figure) in enumerate(drawn.items())
        },
    )
    return StudyReport(html, _table(result), importance)


def weigh_parameters(study: Study) -> dict[str, float]:
    """Importance of each parameter, most important first; empty when too little is known."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state is TrialState.COMPLETE]
    losses = {trial.values[0] for trial in complete}
    if len(complete) < _LEAST_FOR_IMPORTANCE or len(losses) < 2:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            target=lambda trial: float(trial.values[0]),
        )
    except RuntimeError:  # its trees find nothing that the losses depend on
        return {}
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def rank(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Complete trials first, best first."""
    return sorted(trials, key=lambda t: (t.state != "complete", math.isnan(t.loss), t.loss))


def searched(trials: Sequence[TrialResult]) -> list[str]:
    """The parameters that some trial was asked about."""
    return sorted({name for trial in trials for name in trial.params})


def _count_states(trials: Sequence[TrialResult]) -> dict[str, int]:
    states = [trial.state for trial in trials]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _table(result: SweepResult) -> str:
    trials, names = result.trials, searched(result.trials)
    facts = ["loss", "perplexity", "accuracy", "seconds", "shared_with", "reason", "run_id"]
    shown = [result.accuracy if fact == "accuracy" else fact for fact in facts]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    costs = [*result.costs, *(["pareto_front"] if result.costs else [])]
    writer.writerow(["number", "state", *names, *shown, *costs])
    for trial in trials:
        params = [trial.params.get(name, "") for name in names]
        told = [_cell(getattr(trial, fact)) for fact in facts]
        paid = [trial.costs.get(name, "") for name in result.costs]
        on_front = [trial.number in result.front] if result.costs else []
        writer.writerow([trial.number, trial.state, *params, *told, *paid, *on_front])
    return stream.getvalue()


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value

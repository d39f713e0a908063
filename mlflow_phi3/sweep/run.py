"""The sweep as a whole: open the study, work on it, name the winner."""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mlflow_phi3.backends.base import Backend, Workload
from mlflow_phi3.backends.cluster import check_cluster
from mlflow_phi3.backends.local import LocalBackend
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import TrainingError, UsageError
from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.sweep.budget import Budget
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.confidence import compare_with_winner
from mlflow_phi3.sweep.drivers import worked_here
from mlflow_phi3.sweep.driving import driving
from mlflow_phi3.sweep.opening import EXAMPLES, begin_study
from mlflow_phi3.sweep.report import REPORT, write_report
from mlflow_phi3.sweep.reseed import reseed_winner
from mlflow_phi3.sweep.results import State, SweepProgress, SweepResult, TrialResult
from mlflow_phi3.sweep.space import Space, build_space
from mlflow_phi3.sweep.tickets import OUTCOME, RUN_ID, owner_of
from mlflow_phi3.sweep.trial_run import BEST, accuracy_of, mark_front
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.training.checkpoint import digest_examples
from mlflow_phi3.training.reports import perplexity
from mlflow_phi3.training.schedule import check_evaluations

logger = logging.getLogger(__name__)

_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def run_sweep(  # noqa: PLR0913 - what a sweep needs, each by its name
    config: SweepConfig,
    *,
    base: Base,
    train: Sequence[Example],
    validation: Sequence[Example],
    tracker: Tracker,
    parent: Run,
    folder: Path,
    tags: Mapping[str, str],
    on_progress: Callable[[SweepProgress], None],
) -> SweepResult:
    """Search, train, log; or go on where an earlier sweep of the same study ended.

    Args:
        config: What to search and how.
        base: The frozen base model.
        train: Training examples.
        validation: Trials are compared on these, so at least one.
        tracker: Where runs go.
        parent: The sweep's run; each trial is a child of it.
        folder: Trials keep their checkpoints in ``<folder>/<study>``, and go on from them there.
        tags: Tags of every trial's run.
        on_progress: Told after each optimizer step.

    Raises:
        UsageError: A space, option or study that cannot be meant.
        TrainingError: No trial was completed.
        KeyboardInterrupt: As it came.
    """
    if not validation:
        raise UsageError("PHI3-U089", "no validation examples", where="validation_data")
    space = _space_over(base, train, config)
    facts = {**tags, EXAMPLES: digest_examples(itertools.chain(train, validation))}
    study = begin_study(config, space, tracker=tracker, parent=parent, facts=facts)
    checkpoints = folder / study.name
    work = Workload(base, train, validation, space.largest(), config.concurrency)
    with driving(study, checkpoints), _opened(config, work, checkpoints) as backend:
        conductor = Conductor(
            study,
            backend,
            {**tags, "phi3.base_model": base.name},
            on_progress,
            folder=checkpoints / "points",
            round_size=study.ledger.remember_round(backend.group_size * backend.slots),
            accuracy=accuracy_of(base.labels),
        )
        result = work_through(conductor)
        adapter = _fetch_adapter(result.winner, conductor, checkpoints)
        winner = replace(result.winner, adapter=adapter)
        reseeded = reseed_winner(winner, _affordable(config.winner_seeds, conductor), conductor)
        _log_spent(parent, study.budget, conductor.spent())
        result = replace(result, winner=winner, reseeded=reseeded)
        rivals = compare_with_winner(
            winner, result.trials, validation=validation, tracker=tracker, seed=config.seed
        )
        log_result(conductor, result, rivals)
        if result.costs:
            mark_front(result, tracker)
        return result


def _space_over(base: Base, train: Sequence[Example], config: SweepConfig) -> Space:
    """What is searched; refuse what this base or so few examples cannot be trained with."""
    space = build_space(config, model=config.model, seed=config.seed)
    space.check_layers(base)
    check_evaluations(space.largest(), len(train))
    return space


def _affordable(seeds: int, conductor: Conductor) -> int:
    """How many other seeds the winner is trained with: none once the budget is spent."""
    budget = conductor.study.budget
    if seeds and budget.is_spent(conductor.spent()):
        logger.warning("%s is spent: the winner is not trained again with other seeds", budget.name)
        return 0
    return seeds


def log_result(conductor: Conductor, result: SweepResult, rivals: Mapping[int, Comparison]) -> None:
    """Log the winner's numbers, those that are known, and the report on the sweep's run.

    Args:
        conductor: Has worked on the study.
        result: What came of it.
        rivals: Trials beside the winner, by number, where their losses by example are known.
    """
    parent, winner = conductor.study.parent, result.winner
    report = write_report(conductor.study.ledger.study, result, rivals)
    numbers = {
        "eval/loss": winner.loss,
        "eval/perplexity": winner.perplexity,
        f"eval/{result.accuracy}": winner.accuracy,
    }
    parent.log_metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
    parent.set_tags({"phi3.winner": winner.name, "phi3.stopped_because": result.stopped_because})
    parent.log_text(report.html, REPORT)
    parent.log_text(report.csv, "sweep/trials.csv")
    parent.log_json(report.importance, "sweep/importance.json")


def _log_spent(parent: Run, budget: Budget, seconds: float) -> None:
    """What the study has taken so far, all commands that worked on it together."""
    parent.log_metrics({"cost/hours": seconds / 3600})
    if budget.usd_per_hour:
        parent.log_metrics({"cost/usd": budget.usd(seconds)})
        parent.set_tags({"phi3.price": f"{budget.usd_per_hour:g} USD an hour, {budget.source}"})


def _opened(config: SweepConfig, work: Workload, folder: Path) -> closing[Backend]:
    if config.backend == "local":
        return closing(LocalBackend(work, folder=folder))
    check_cluster(config.ray_address)
    from mlflow_phi3.backends.ray import RayBackend  # an optional package

    return closing(RayBackend(work, folder=folder, address=config.ray_address))


def _fetch_adapter(winner: TrialResult, conductor: Conductor, folder: Path) -> Path:
    """Where the winner's adapter lies on this machine, which may have to fetch it."""
    study = conductor.study.ledger.study
    owner = owner_of(study.get_trials(deepcopy=False)[winner.number])
    if winner.adapter and worked_here(owner, study.user_attrs) and winner.adapter.is_dir():
        return winner.adapter
    # Another machine trained it, and a folder of that name here is of an earlier attempt; or the
    # folder was cleaned away.
    return conductor.study.tracker.get(winner.run_id).download(BEST, folder / winner.name)


def work_through(conductor: Conductor) -> SweepResult:
    """Work on a study until it is complete; where the winner's adapter lies is not looked at.

    Raises:
        TrainingError: No trial was completed.
        KeyboardInterrupt: As it came.
    """
    why = conductor.conduct()
    study = conductor.study
    ledger, costs = study.ledger, study.config.costs
    whole = [trial for trial in ledger.trials() if ledger.space.is_whole(trial.params)]
    trials = tuple(_trial_result(trial, ledger.space, costs) for trial in whole)
    best = ledger.best()
    if best is None:
        raise _nothing_complete(study.name, trials, why, study.budget)
    winner = next(trial for trial in trials if trial.number == best.number)
    return SweepResult(
        study=study.name,
        trials=trials,
        winner=winner,
        stopped_because=why,
        accuracy=conductor.accuracy,
        costs=costs,
        front=ledger.front() if costs else frozenset(),
    )


def _nothing_complete(
    study: str, trials: Sequence[TrialResult], why: str, budget: Budget
) -> TrainingError:
    """A study without a result: what stood in its way, and what is to be done about that."""
    reasons = {trial.reason for trial in trials if trial.reason}
    fix = "lower learning_rate, or look at the failed runs"
    if why == budget.name:
        reasons.add(f"{why} is spent")
        fix = f"raise {why}, and go on with study={study}"
    told = "; ".join(sorted(reasons)) or why
    return TrainingError(
        "PHI3-T080",
        f"none of {count_of(len(trials), 'trial')} was completed: {told}",
        where=study,
        fix=fix,
    )


def _trial_result(trial: FrozenTrial, space: Space, costs: Sequence[str]) -> TrialResult:
    attrs = trial.user_attrs
    loss = min(trial.intermediate_values.values(), default=math.nan)
    outcome: Mapping[str, Any] = attrs.get(OUTCOME, {})
    shared, adapter = outcome.get("shared_with"), outcome.get("adapter")
    return TrialResult(
        number=trial.number,
        run_id=str(attrs.get(RUN_ID, "")),
        state=_STATES[trial.state],
        params=dict(trial.params),
        spec=space.spec(trial.params),
        loss=loss,
        perplexity=perplexity(loss),
        accuracy=float(outcome.get("accuracy", math.nan)),
        seconds=float(outcome.get("seconds", math.nan)),
        shared_with=int(shared.rpartition("-")[2]) if shared else None,
        reason=str(outcome.get("reason", "")),
        adapter=Path(adapter) if adapter else None,
        costs=dict(zip(costs, (trial.values or ())[1:], strict=False)),
    )

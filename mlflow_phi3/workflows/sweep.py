"""``sweep``: search hyperparameters over LoRA trainings of one base."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.config.parse import narrow, parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.notation import NONE, count_of, show_figure
from mlflow_phi3.foundry.repeat import YAML, repeat_yaml
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.sweep.report import REPORT, rank, searched
from mlflow_phi3.sweep.reseed import tell_reseeded
from mlflow_phi3.sweep.results import SweepProgress, SweepResult, TrialResult, show_value
from mlflow_phi3.sweep.run import run_sweep
from mlflow_phi3.sweep.trial_run import BEST
from mlflow_phi3.tracking.datasets import log_datasets
from mlflow_phi3.tracking.lookup import fetch, find_finished, find_run
from mlflow_phi3.tracking.missing import unless_missing
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import DATASET_TAG, TEMPLATE_TAG
from mlflow_phi3.workflows.check import check_search
from mlflow_phi3.workflows.context import (
    Context,
    greet,
    load_config,
    open_base,
    open_context,
)
from mlflow_phi3.workflows.ending import show_look, show_step
from mlflow_phi3.workflows.prepare import dataset_facts, log_repeat_data, prepare_as_child
from mlflow_phi3.workflows.screen import Update
from mlflow_phi3.workflows.task import fit_to_data

SWEEP_RUN = "phi3.sweep_run"
WINNER_RUN = "phi3.winner_run"


@dataclass(frozen=True, slots=True)
class Winner:
    """The best trial of a sweep, wherever it was trained.

    Args:
        sweep_run: MLflow run of the sweep.
        run_id: MLflow run of the trial.
        name: ``trial-007``.
        adapter: Folder with its adapter on this machine.
        config: What the sweep was started with.
    """

    sweep_run: str
    run_id: str
    name: str
    adapter: Path
    config: SweepWord


def run(config: SweepWord) -> None:
    """Run the step by itself, here or in Foundry; its preparation is a child run."""
    if config.backend == "foundry":
        from mlflow_phi3.workflows import foundry_sweep  # which imports this module

        foundry_sweep.run(config)
        return
    check_search(config)
    context = open_context(config)
    greet(context, config)
    with context.root("sweep", config) as root:
        data = prepare_as_child(context, config, root)
        result, _ = sweep(context, config, open_base(config, data), data, root)
    show_trials(context, result)
    show_look(context, root, REPORT)
    show_step(context, f"mlflow-phi3 evaluate --sweep_run {root.run_id}")


def name_child(study: str) -> str:
    """What the run of a sweep is called within another's, by its study; empty for one unnamed."""
    return f"sweep-{study}" if study else ""


def sweep(
    context: Context, config: SweepWord, base: Base, data: PreparedData, run: Run
) -> tuple[SweepResult, Winner]:
    """Search; the winner is named on ``run``."""
    tags = {
        **base.tags,
        TEMPLATE_TAG: base.template_sha256,
        DATASET_TAG: data.manifest.sha256,
        "phi3.task": config.task,
    }
    run.set_tags(tags)
    log_datasets(run, dataset_facts(data, ("train", "validation")))
    if config.task == "chat-completion":  # Foundry learns no labels
        log_repeat_data(data, run)
    with context.screen.stage("sweep") as update:
        update("loading the model, and trying how many trials fit at once")
        result = run_sweep(
            narrow(fit_to_data(config, data), SweepConfig),
            base=base,
            train=data.examples("train"),
            validation=data.examples("validation"),
            tracker=context.tracker,
            parent=run,
            folder=context.workspace / "trials",
            tags=tags,
            on_progress=teller(update),
        )
    if config.task == "chat-completion":
        log_repeats(context, result, config.model)
    best = result.winner
    run.set_tags({WINNER_RUN: best.run_id})
    assert best.adapter is not None  # noqa: S101 - run_sweep has fetched it
    return result, Winner(run.run_id, best.run_id, best.name, best.adapter, config)


def log_repeats(context: Context, result: SweepResult, model: str) -> None:
    """Log each trial as the job of Foundry that would repeat it."""
    for trial in result.trials:
        if trial.run_id:
            with unless_missing():  # somebody may have deleted it
                context.tracker.get(trial.run_id).log_text(repeat_yaml(trial.spec, model), YAML)


def load_winner(context: Context, sweep_run: str, *, where: str) -> Winner:
    """The winner of a finished sweep, its adapter fetched from the store.

    Args:
        context: The surroundings.
        sweep_run: Run id; empty takes the newest finished sweep.
        where: The parameter that led to it, for messages.

    Raises:
        UsageError: There is no such sweep, it has no winner, or that one's run is gone.
    """
    run_id = sweep_run or context.tracker.latest("sweep", where=where).info.run_id
    found = find_finished(context.tracker, run_id, stage="sweep", tag=WINNER_RUN, where=where)
    trial = find_run(context.tracker, found.tags()[WINNER_RUN], where=where)
    config = parse_values(SweepWord, load_config(context, run_id))
    adapter = fetch_adapter(context, trial.run_id, where=where)
    return Winner(run_id, trial.run_id, trial.name, adapter, config)


def prepare_as_swept(context: Context, winner: Winner, root: Run) -> PreparedData:
    """Prepare the data of a finished sweep again, as a child run of ``root``.

    Raises:
        DataError: It is not what the trials saw: a row that they learnt may be a test row now.
    """
    data = prepare_as_child(context, winner.config, root)
    swept = context.tracker.get(winner.sweep_run).tags()[DATASET_TAG]
    if data.manifest.sha256 != swept:
        raise DataError(
            "PHI3-D079",
            f"the rows are not those of the sweep {winner.sweep_run}: they have changed since",
            where=", ".join(source.name for source in data.manifest.sources),
            fix="put them back as they were, or sweep again",
        )
    return data


def fetch_adapter(context: Context, trial_run: str, *, where: str) -> Path:
    """Copy a trial's best adapter out of the store; where it lies then.

    Args:
        context: The surroundings.
        trial_run: Run id.
        where: The parameter or trial that led to it, for messages.

    Raises:
        UsageError: There is no such run, or it left no adapter.
    """
    trial = find_run(context.tracker, trial_run, where=where)
    into = context.workspace / "fetched" / trial_run
    into.mkdir(parents=True, exist_ok=True)
    return fetch(trial, BEST, into, where=where)


def show_trials(context: Context, result: SweepResult) -> None:
    """Print the trials, best first, and what a person has to know of how the sweep ended.

    A star is the winner, a plus on the Pareto front.
    """
    names = searched(result.trials)
    rows = [
        [
            f"{_mark(result, trial)} {trial.name}",
            *(show_value(trial.params.get(name, "")) for name in names),
            show_figure(trial.loss),
            *(show_value(trial.costs.get(name, NONE)) for name in result.costs),
            show_figure(trial.perplexity, 3),
            NONE if math.isnan(trial.accuracy) else f"{trial.accuracy:.1%}",
            trial.state,
        ]
        for trial in rank(result.trials)
    ]
    right = result.accuracy.replace("_accuracy", " acc.")
    columns = ["trial", *names, "val loss", *result.costs, "perplexity", right, "state"]
    best = result.winner
    context.screen.facts(
        "winner",
        study=result.study,
        trial=best.name,
        run_id=best.run_id,
        params=dict(best.params),
        loss=best.loss,
    )
    title = f"Study {result.study}: {count_of(len(result.trials), 'trial')}"
    legend = "; + on the Pareto front" if result.front else ""
    context.screen.table(title + legend, columns, rows)
    if told := tell_reseeded(result.reseeded):
        context.screen.say(f"The winner is {best.name}.{told}", event="reseeded")
    why = result.stopped_because
    if why != "n_trials":
        context.screen.say(f"Stopped because of {why}.", event="stopped", why=why)


def _mark(result: SweepResult, trial: TrialResult) -> str:
    if trial.number == result.winner.number:
        return "*"
    return "+" if trial.number in result.front else " "


def teller(update: Update) -> Callable[[SweepProgress], None]:
    """Tells a stage's progress line how a sweep stands."""

    def tell(progress: SweepProgress) -> None:
        # What moves comes first: a narrow terminal cuts the rest.
        at = f"step {progress.step}/{progress.total_steps} loss {progress.loss:.3f}"
        parts = [f"{progress.finished}/{progress.n_trials} trials", f"{progress.trial} {at}"]
        if progress.best_trial:
            parts.append(f"best {progress.best_loss:.4f} ({progress.best_trial})")
        if progress.tokens_per_second is not None:
            parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
        update(", ".join(parts), progress.done)

    return tell

"""The parameters or the seed? The winner, trained again with other seeds."""

from collections.abc import Mapping
from dataclasses import replace

from mlflow_phi3.backends.base import Backend, Job
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.sweep.trial_run import STUDY
from mlflow_phi3.tracking.runs import Run, Tracker
from mlflow_phi3.training.reports import EndReport

RESEEDS = "phi3.reseeds"


def reseed_winner(
    winner: TrialResult,
    times: int,
    *,
    ledger: Ledger,
    backend: Backend,
    tracker: Tracker,
    parent: Run,
    tags: Mapping[str, str],
) -> tuple[float, ...]:
    """Validation losses of the winner's parameters with ``times`` other seeds.

    Initial adapter, order of the examples and dropout are others. The study keeps the losses, so
    that continuing it trains none of them again; they do not count as trials.

    Args:
        winner: The trial with the lowest loss.
        times: How many other seeds.
        ledger: The study.
        backend: Where to train.
        tracker: Where each training is a run.
        parent: The sweep's run, whose children they are.
        tags: Of each run.
    """
    attribute = f"reseeded:{winner.number}"
    kept: dict[str, float] = dict(ledger.study.user_attrs.get(attribute, {}))
    seeds = [winner.spec.seed + step for step in range(1, times + 1)]
    missing = {f"{winner.name}-seed-{seed}": seed for seed in seeds if str(seed) not in kept}
    if not missing:
        return tuple(kept[str(seed)] for seed in seeds)
    jobs = [Job(name, replace(winner.spec, seed=seed)) for name, seed in missing.items()]
    size = backend.group_size
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    with backend.train(groups) as training:
        for report in training.reports():
            if isinstance(report, EndReport) and report.outcome == "complete":
                seed = missing[report.trial]
                own = {**tags, STUDY: ledger.study.study_name, RESEEDS: winner.name}
                with tracker.stage(report.trial, stage="reseed", parent=parent, tags=own) as run:
                    run.log_params({"seed": seed})
                    run.log_metrics({"eval/loss": report.best_loss})
                kept[str(seed)] = report.best_loss
                ledger.study.set_user_attr(attribute, kept)
    return tuple(kept[str(seed)] for seed in seeds if str(seed) in kept)


def tell_reseeded(losses: tuple[float, ...]) -> str:
    """One sentence for people; empty where nothing was trained again."""
    if not losses:
        return ""
    told = ", ".join(f"{loss:.4f}" for loss in losses)
    return f" Trained again with other seeds, its loss was {told}."

"""The parameters or the seed? The winner, trained again with other seeds."""

import logging
import math
from dataclasses import replace

from mlflow_phi3.backends.base import Job
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.sweep.trial_run import REASON, STUDY
from mlflow_phi3.tracking.run import Status
from mlflow_phi3.training.reports import EndReport, StepReport

logger = logging.getLogger(__name__)

RESEEDS = "phi3.reseeds"


def reseed_winner(winner: TrialResult, times: int, conductor: Conductor) -> tuple[float, ...]:
    """Validation losses of the winner's parameters with ``times`` other seeds; NaN where it failed.

    Initial adapter, order of the examples and dropout are others. The study keeps the losses, so
    that continuing it trains none of them again; they do not count as trials.

    Args:
        winner: The trial with the lowest loss.
        times: How many other seeds.
        conductor: Has worked on the study; each training is a run beside its trials.
    """
    study, backend = conductor.study.ledger.study, conductor.backend
    attribute = f"reseeded:{winner.number}"
    kept: dict[str, float] = dict(study.user_attrs.get(attribute, {}))
    seeds = [winner.spec.seed + step for step in range(1, times + 1)]
    missing = {f"{winner.name}-seed-{seed}": seed for seed in seeds if str(seed) not in kept}
    jobs = [Job(name, replace(winner.spec, seed=seed)) for name, seed in missing.items()]
    size = backend.group_size
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    shares = {str(seed): float(str(seed) in kept) for seed in seeds}
    if groups:
        with backend.train(groups) as training:
            for report in training.reports():
                if isinstance(report, StepReport):
                    shares[str(missing[report.trial])] = report.step / report.total_steps
                    conductor.tell_progress(report, reseeded=sum(shares.values()))
                elif isinstance(report, EndReport):
                    seed = missing[report.trial]
                    _log(report, seed, winner, conductor)
                    if report.outcome == "complete":
                        kept[str(seed)] = report.best_loss
                        study.set_user_attr(attribute, kept)
    return tuple(kept.get(str(seed), math.nan) for seed in seeds)


def _log(report: EndReport, seed: int, winner: TrialResult, conductor: Conductor) -> None:
    """One training as a run; one that failed is told."""
    study = conductor.study
    own = {**conductor.tags, STUDY: study.name, RESEEDS: winner.name}
    status: Status = "FINISHED"
    if report.outcome != "complete":
        logger.warning("%s failed: %s", report.trial, report.reason)
        own[REASON] = report.reason[:5000]
        status = "FAILED"
    with study.tracker.stage(
        report.trial, stage="reseed", parent=study.parent, tags=own, status=status
    ) as run:
        run.log_params({"seed": seed})
        if status == "FINISHED":
            run.log_metrics({"eval/loss": report.best_loss})


def tell_reseeded(losses: tuple[float, ...]) -> str:
    """One sentence for people; empty where nothing was trained again."""
    if not losses:
        return ""
    told = ", ".join("none (it failed)" if math.isnan(loss) else f"{loss:.4f}" for loss in losses)
    return f" Trained again with other seeds, its loss was {told}."

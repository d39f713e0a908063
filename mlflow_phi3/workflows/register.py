"""``register``: prove that the winner is the same wherever it is loaded, then give it a version."""

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.words import RegisterWord
from mlflow_phi3.data.pipeline import PreparedData
from mlflow_phi3.errors import GateError
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.evaluation.runner import Evaluation
from mlflow_phi3.evaluation.runner import evaluate as measure
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import Base, load_base
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import Parity, compare_logits
from mlflow_phi3.serving.package import package_chat
from mlflow_phi3.tracking import registry
from mlflow_phi3.tracking.runs import Run
from mlflow_phi3.workflows.evaluate import load_evaluation
from mlflow_phi3.workflows.job import Job, log_config, open_base, open_job
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.sweep import SWEEP_RUN, WINNER_RUN, Winner, fetch_adapter, load_winner

# Where the weights lie within a logged model: the artifact `checkpoint` of serving/package.py.
_CHECKPOINT = "artifacts/checkpoint"


@dataclass(frozen=True, slots=True)
class Registered:
    """A new version of a registered model.

    Args:
        name: Of the registered model.
        version: Its number.
        winner: The trial it came from.
        champion: Whether it is the champion now.
        why: In words, why it is or is not.
    """

    name: str
    version: str
    winner: str
    champion: bool
    why: str

    @property
    def uri(self) -> str:
        """``models:/name@alias``, as MLflow and the deployment take it."""
        alias = registry.CHAMPION if self.champion else registry.CHALLENGER
        return f"models:/{self.name}@{alias}"


def run(config: RegisterWord) -> None:
    """Run the step by itself, on an evaluation of the store."""
    job = open_job(config)
    evaluate_run = config.evaluate_run or job.tracker.latest("evaluate").info.run_id
    tuned = load_evaluation(job, evaluate_run)
    winner = load_winner(job, job.tracker.get(evaluate_run).tags()[SWEEP_RUN])
    with job.root("register", config) as root:
        data = prepare_as_child(job, winner.config, root)
        registered = register(job, config, open_base(winner.config), data, winner, tuned, root)
    job.screen.say(f"{registered.winner} is {registered.uri}: {registered.why}")


def register_as_child(
    job: Job,
    config: RegisterConfig,
    base: Base,
    data: PreparedData,
    winner: Winner,
    tuned: Evaluation,
    parent: Run,
) -> Registered:
    """Run the step as a child run of ``parent``."""
    with job.tracker.stage("register", stage="register", parent=parent) as run:
        log_config(run, narrow(config, RegisterConfig))
        return register(job, config, base, data, winner, tuned, run)


def register(
    job: Job,
    config: RegisterConfig,
    base: Base,
    data: PreparedData,
    winner: Winner,
    tuned: Evaluation,
    run: Run,
) -> Registered:
    """Log the winner portable, reload it, compare, and only then make it a version.

    Raises:
        GateError: Its loss is not a number, or the reloaded model is not the trained one.
    """
    run.set_tags({SWEEP_RUN: winner.sweep_run, WINNER_RUN: winner.run_id})
    if not math.isfinite(tuned.metrics["loss"]):
        raise GateError("PHI3-G001", f"test loss is {tuned.metrics['loss']}", where=winner.name)
    with tempfile.TemporaryDirectory(dir=job.workspace) as scratch:
        with job.screen.stage("register") as update:
            update("merging the adapter into its base")
            model_uri = _log_portable(job, config, base, winner, run, Path(scratch))
            update("reloading it from the store and comparing")
            reloaded = registry.download_model(model_uri, Path(scratch) / "reloaded")
            parity = _compare(base, winner, reloaded / _CHECKPOINT, data, config)
        run.log_json(asdict(parity), "register/parity.json")
        _check(parity, config, winner)
        champion, why = _decide(job, config, data, tuned, Path(scratch))
    version = registry.create_version(
        run,
        name=config.registered_model,
        model_uri=model_uri,
        tags={
            "phi3.base_model": base.name,
            "phi3.base_revision": base.revision,
            "phi3.trial_run": winner.run_id,
            **{f"test/{name}": value for name, value in tuned.metrics.items()},
        },
        description=f"{winner.name} of sweep run {winner.sweep_run}: {why}",
    )
    registry.set_challenger(run.client, version)
    if champion:
        registry.crown(run.client, version)
    run.log_json({"champion": champion, "why": why, "parity": asdict(parity)}, "register/gate.json")
    return Registered(version.name, str(version.version), winner.name, champion, why)


def _log_portable(
    job: Job, config: RegisterConfig, base: Base, winner: Winner, run: Run, scratch: Path
) -> str:
    """Fetch the adapter from the store, fold it into the base, log the whole; its URI."""
    merged = merge_adapter(
        base,
        fetch_adapter(job, winner.run_id),
        scratch / "merged",
        dtype=getattr(torch, config.model_dtype),
    )
    return registry.log_model(run, package_chat(merged, scratch / "code"))


def _compare(
    base: Base, winner: Winner, checkpoint: Path, data: PreparedData, config: RegisterConfig
) -> Parity:
    """Logits of the model as it was trained beside those of the one that came back."""
    examples = data.examples("test")[: config.parity_examples]
    reloaded = load_base(str(checkpoint), precision="float32", device=str(base.model.device))
    with with_adapter(base, winner.adapter) as trained:
        return compare_logits(trained, reloaded.model, examples)


def _check(parity: Parity, config: RegisterConfig, winner: Winner) -> None:
    if not parity.within(config.parity_tolerance):
        raise GateError(
            "PHI3-G002",
            f"the reloaded model differs from the trained one: logits by {parity.max_rel:.2g} of "
            f"the largest, {parity.differing} of {parity.positions} most likely tokens",
            where=winner.name,
            fix="register with -P model_dtype=float32, or raise parity_tolerance",
        )


def _decide(
    job: Job, config: RegisterConfig, data: PreparedData, tuned: Evaluation, scratch: Path
) -> tuple[bool, str]:
    """Whether the new version becomes the champion, and why."""
    if config.promote != "better":
        return config.promote == "always", f"promote={config.promote}"
    reigning = registry.find_alias(job.tracker.client, config.registered_model, registry.CHAMPION)
    if reigning is None:
        return True, "the first champion"
    folder = registry.download_model(reigning.source, scratch / "champion")
    champion = load_base(str(folder / _CHECKPOINT), precision="float32")
    rival = measure(champion, None, data.examples("test"), (), config=EvaluateConfig(answers=0))
    found = compare(tuned.per_example, rival.per_example)
    told = (
        f"test loss {found.difference:+.4f} against champion version {reigning.version} "
        f"({found.confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f})"
    )
    return found.better, told

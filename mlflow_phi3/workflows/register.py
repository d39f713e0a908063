"""``register``: prove that the winner is the same wherever it is loaded, then give it a version."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.words import RegisterWord
from mlflow_phi3.data.pipeline import PreparedData
from mlflow_phi3.evaluation.compare import Comparison, compare
from mlflow_phi3.evaluation.gates import (
    Verdict,
    champion_gate,
    finite_gate,
    golden_gate,
    parity_gate,
)
from mlflow_phi3.evaluation.golden import GoldenResult, judge_all, read_golden
from mlflow_phi3.evaluation.runner import Evaluation
from mlflow_phi3.evaluation.runner import evaluate as measure
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import Base, choose_dtype, load_base
from mlflow_phi3.modeling.generate import generate
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.serving.package import package_chat
from mlflow_phi3.tracking import registry
from mlflow_phi3.tracking.runs import Run
from mlflow_phi3.workflows.evaluate import load_evaluation
from mlflow_phi3.workflows.job import Job, log_config, open_base, open_job
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.sweep import SWEEP_RUN, WINNER_RUN, Winner, fetch_adapter, load_winner

# Where the weights lie within a logged model: the artifact `checkpoint` of serving/package.py.
_CHECKPOINT = "artifacts/checkpoint"
_GOLDEN_TOKENS = 256


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
        GateError: Its loss or a weight is not a number, the reloaded model is not the trained one,
            or a golden query is answered wrongly.
    """
    run.set_tags({SWEEP_RUN: winner.sweep_run, WINNER_RUN: winner.run_id})
    with tempfile.TemporaryDirectory(dir=job.workspace) as scratch:
        with job.screen.stage("register") as update:
            update("merging the adapter into its base")
            model_uri = _log_portable(job, config, base, winner, run, Path(scratch))
            update("reloading it from the store")
            folder = registry.download_model(model_uri, Path(scratch) / "reloaded")
            device = str(base.model.device)
            reloaded = load_base(str(folder / _CHECKPOINT), precision="float32", device=device)
            update("comparing it with the trained one, and with the champion")
            verdict = _judge(job, config, base, reloaded, data, winner, tuned, Path(scratch))
        run.log_json(verdict.to_json(), "register/gate.json")
        verdict.check(winner.name)
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
        description=f"{winner.name} of sweep run {winner.sweep_run}: {verdict.why}",
    )
    registry.set_challenger(run.client, version)
    if verdict.promote:
        registry.crown(run.client, version)
    number = str(version.version)
    return Registered(version.name, number, winner.name, verdict.promote, verdict.why)


def _log_portable(
    job: Job, config: RegisterConfig, base: Base, winner: Winner, run: Run, scratch: Path
) -> str:
    """Fetch the adapter from the store, fold it into the base, log the whole; its URI."""
    merged = merge_adapter(
        base,
        fetch_adapter(job, winner.run_id),
        scratch / "merged",
        dtype=choose_dtype(config.model_dtype, name=base.name, device="cpu"),
    )
    return registry.log_model(run, package_chat(merged, scratch / "code"))


def _judge(
    job: Job,
    config: RegisterConfig,
    base: Base,
    reloaded: Base,
    data: PreparedData,
    winner: Winner,
    tuned: Evaluation,
    scratch: Path,
) -> Verdict:
    """Ask every gate."""
    examples = data.examples("test")[: config.parity_examples]
    with with_adapter(base, winner.adapter) as trained:
        parity = compare_logits(trained, reloaded.model, examples)
    weights = all(bool(weight.isfinite().all()) for weight in reloaded.model.parameters())
    gates = [
        finite_gate(tuned.metrics, weights),
        parity_gate(
            same=parity.within(config.parity_tolerance),
            max_rel=parity.max_rel,
            differing=parity.differing,
            tolerance=config.parity_tolerance,
        ),
    ]
    if config.golden:
        gates.append(golden_gate(_ask_golden(reloaded, Path(config.golden))))
    rival = _against_champion(job, config, data, tuned, scratch)
    return Verdict((*gates, champion_gate(rival, config.promote)))


def _ask_golden(model: Base, path: Path) -> tuple[GoldenResult, ...]:
    """Let the reloaded model answer the golden queries."""
    queries = list(read_golden(path))
    prompts = [query.messages for query in queries]
    answers = generate(model.model, model.tokenizer, prompts, max_new_tokens=_GOLDEN_TOKENS)
    return judge_all(queries, answers)


def _against_champion(
    job: Job, config: RegisterConfig, data: PreparedData, tuned: Evaluation, scratch: Path
) -> Comparison | None:
    """The winner's losses beside the reigning champion's on the same test rows."""
    if config.promote != "better":
        return None
    reigning = registry.find_alias(job.tracker.client, config.registered_model, registry.CHAMPION)
    if reigning is None:
        return None
    folder = registry.download_model(reigning.source, scratch / "champion")
    champion = load_base(str(folder / _CHECKPOINT), precision="float32")
    rival = measure(champion, None, data.examples("test"), (), config=EvaluateConfig(answers=0))
    return compare(tuned.per_example, rival.per_example)

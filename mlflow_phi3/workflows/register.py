"""``register``: prove that the winner is the same wherever it is loaded, then give it a version."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from mlflow_phi3.azure.names import endpoint_for
from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.words import RegisterWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.evaluation.gates import (
    Gate,
    Verdict,
    champion_gate,
    finite_gate,
    golden_gate,
    parity_gate,
)
from mlflow_phi3.evaluation.golden import GoldenResult, judge_all, load_golden
from mlflow_phi3.evaluation.runner import Evaluation
from mlflow_phi3.evaluation.runner import evaluate as measure
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.agreement import Parity
from mlflow_phi3.modeling.base import Base, choose_dtype
from mlflow_phi3.modeling.classify import classify
from mlflow_phi3.modeling.generate import generate, render_prompt
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.modeling.portable import load_portable, save_pinned
from mlflow_phi3.scratch import scratch_folder
from mlflow_phi3.serving.certificate import ARTIFACT
from mlflow_phi3.serving.package import CHECKPOINT, package_chat, package_labels
from mlflow_phi3.tracking import registry
from mlflow_phi3.tracking.lookup import find_finished
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import TRIAL_RUN_TAG
from mlflow_phi3.workflows.certify import certify_winner
from mlflow_phi3.workflows.check import check_registration
from mlflow_phi3.workflows.context import Context, open_base, open_context
from mlflow_phi3.workflows.ending import show_look
from mlflow_phi3.workflows.evaluate import load_evaluation
from mlflow_phi3.workflows.sweep import (
    SWEEP_RUN,
    WINNER_RUN,
    Winner,
    fetch_adapter,
    load_winner,
    prepare_as_swept,
)

_PARAMETER = "evaluate_run"
_GOLDEN_TOKENS = 512  # of an answer whose query names none, as of a served model
_LOSSES = EvaluateConfig(answers=0)
_NAMES = {False: "phi3-chat", True: "phi3-classifier"}  # by whether labels are learnt


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
    check_registration(config)
    context = open_context(config)
    evaluate_run = (
        config.evaluate_run or context.tracker.latest("evaluate", where=_PARAMETER).info.run_id
    )
    evaluation = find_finished(
        context.tracker, evaluate_run, stage="evaluate", tag=SWEEP_RUN, where=_PARAMETER
    )
    tuned = load_evaluation(context, evaluation)
    winner = load_winner(context, evaluation.tags()[SWEEP_RUN], where=_PARAMETER)
    with context.root("register", config) as root:
        data = prepare_as_swept(context, winner, root)
        registered = register(
            context, config, open_base(winner.config, data), data, winner, tuned, root
        )
    show_next(context, registered, root)


def show_next(context: Context, registered: Registered, root: Run) -> None:
    """Say what was registered, how to look at the runs, and how to deploy the winner."""
    say = context.screen.say
    uri = escape(registered.uri)
    say(
        f"\n[bold green]{registered.winner} is {uri}[/]: {escape(registered.why)}",
        event="registered",
        winner=registered.winner,
        model=registered.uri,
        champion=registered.champion,
    )
    show_look(context, root)
    name = endpoint_for(registered.name)
    model = escape(shlex.quote(registered.uri))
    create = f"mlflow deployments create --name {name} -m {model} -t azure-foundry"
    say(f"  Deploy   {create}")
    say(f"  Rehearse {create}:/local   [dim](an emulator; needs no account)[/]")


def register(
    context: Context,
    config: RegisterConfig,
    base: Base,
    data: PreparedData,
    winner: Winner,
    tuned: Evaluation,
    run: Run,
) -> Registered:
    """Log the winner portable, reload it, compare, and only then make it a version.

    Raises:
        GateError: Its loss or a weight is not a number, a form of the model is not the trained one,
            or a golden query is answered wrongly.
    """
    run.set_tags({SWEEP_RUN: winner.sweep_run, WINNER_RUN: winner.run_id})
    with scratch_folder(context.workspace, "register") as scratch:
        with context.screen.stage("register") as update:
            update("making it portable")
            model_uri = _log_portable(context, config, base, winner, run, scratch)
            update("reloading it from the store")
            folder = registry.download_model(model_uri, scratch / "reloaded")
            device = str(base.model.device)
            reloaded = load_portable(folder / CHECKPOINT, precision="float32", device=device)
            update("comparing it with the trained one, and with the champion")
            parity = _compare(config, base, reloaded, data, winner)
            # As it is stored: rounding may cost it more than lies between it and the champion.
            stored = measure(reloaded, None, data.examples("test"), (), config=_LOSSES)
            verdict = _judge(context, config, parity, reloaded, data, stored, scratch)
            run.log_json(verdict.to_json(), "register/gate.json")
            verdict.check(winner.name)
            del reloaded  # the certificate loads it as it is served
            update("asking every form of it the same questions")
            certificate = certify_winner(
                base,
                winner.adapter,
                fetch_adapter(context, winner.run_id, where=winner.name),
                folder,
                name=winner.name,
                logits=parity,
                tolerance=config.parity_tolerance,
                max_tokens=config.certificate_tokens,
            )
        run.log_json(certificate.to_json(), ARTIFACT)
        certificate.check()
    version = registry.create_version(
        run,
        name=config.registered_model or _NAMES[bool(base.labels)],
        model_uri=model_uri,
        metrics={f"test/{k}": v for k, v in {**tuned.metrics, **stored.metrics}.items()},
        tags={**base.tags, TRIAL_RUN_TAG: winner.run_id},
        description=f"{winner.name} of sweep run {winner.sweep_run}: {verdict.why}",
        promote=verdict.promote,
    )
    number = str(version.version)
    return Registered(version.name, number, winner.name, verdict.promote, verdict.why)


def _log_portable(
    context: Context, config: RegisterConfig, base: Base, winner: Winner, run: Run, scratch: Path
) -> str:
    """Fetch the adapter from the store, fold it into the base or pin that, log it; its URI."""
    write = merge_adapter if config.model_format == "merged" else save_pinned
    portable = write(
        base,
        fetch_adapter(context, winner.run_id, where=winner.name),
        scratch / config.model_format,
        dtype=choose_dtype(config.model_dtype, name=base.name, device="cpu"),
    )
    package = package_labels if base.labels else package_chat
    return registry.log_model(run, package(portable, scratch / "code"))


def _compare(
    config: RegisterConfig, base: Base, reloaded: Base, data: PreparedData, winner: Winner
) -> Parity:
    """How far the reloaded model's logits are from the trained one's, on test rows."""
    examples = data.examples("test")[: config.parity_examples]
    with with_adapter(base, winner.adapter) as trained:
        return compare_logits(trained, reloaded.model, examples)


def _judge(
    context: Context,
    config: RegisterConfig,
    parity: Parity,
    reloaded: Base,
    data: PreparedData,
    stored: Evaluation,
    scratch: Path,
) -> Verdict:
    """Ask every gate."""
    weights = all(bool(weight.isfinite().all()) for weight in reloaded.model.parameters())
    gates = [
        finite_gate(stored.metrics, weights),
        parity_gate(
            same=parity.within(config.parity_tolerance),
            max_rel=parity.max_rel,
            differing=parity.differing,
            tolerance=config.parity_tolerance,
        ),
    ]
    if config.golden:
        gates.append(golden_gate(_ask_golden(reloaded, Path(config.golden))))
    gates.append(_against_champion(context, config, reloaded, data, stored, scratch))
    return Verdict(tuple(gates))


def _ask_golden(model: Base, path: Path) -> tuple[GoldenResult, ...]:
    """Let the reloaded model answer the golden queries."""
    queries = load_golden(path)
    if model.labels:
        rendered = [render_prompt(model.tokenizer, query.messages) for query in queries]
        found = [model.labels[int(shares.argmax())] for shares in classify(model.model, rendered)]
        return judge_all(queries, found)
    by_length: dict[int, list[int]] = {}
    for at, query in enumerate(queries):
        by_length.setdefault(query.inputs.get("max_tokens", _GOLDEN_TOKENS), []).append(at)
    answers = [""] * len(queries)
    for length, places in by_length.items():
        prompts = [queries[at].messages for at in places]
        texts = generate(model.model, model.tokenizer, prompts, max_new_tokens=length)
        for at, text in zip(places, texts, strict=True):
            answers[at] = text
    return judge_all(queries, answers)


def _against_champion(
    context: Context,
    config: RegisterConfig,
    challenger: Base,
    data: PreparedData,
    stored: Evaluation,
    scratch: Path,
) -> Gate:
    """The winner's losses beside the reigning champion's on the same test rows."""
    if config.promote != "better":
        return champion_gate(None, config.promote)
    name = config.registered_model or _NAMES[bool(challenger.labels)]
    reigning = registry.find_alias(context.tracker.client, name, registry.CHAMPION)
    if reigning is None:
        return champion_gate(None, config.promote)
    folder = registry.download_model(reigning.source, scratch / "champion")
    if not (folder / CHECKPOINT).is_dir():
        told = "the champion's weights are not in the store, so it cannot be measured here"
        return champion_gate(None, config.promote, unlike=told)
    device = str(challenger.model.device)
    challenger.model.to("cpu")  # nobody computes with it any more, and both may not fit a GPU
    champion = load_portable(folder / CHECKPOINT, precision="float32", device=device)
    if unlike := _why_unlike(champion, challenger):
        return champion_gate(None, config.promote, unlike=unlike)
    rival = measure(champion, None, data.examples("test"), (), config=_LOSSES)
    found = compare(
        stored.per_example,
        rival.per_example,
        confidence=config.confidence,
        resamples=config.resamples,
    )
    return champion_gate(found, config.promote)


def _why_unlike(champion: Base, challenger: Base) -> str:
    """Why a loss on the challenger's test rows says nothing of the champion; empty if it does."""
    if champion.labels != challenger.labels:
        return f"the champion knows other labels: {', '.join(champion.labels) or 'none'}"
    if champion.tokenizer.get_vocab() != challenger.tokenizer.get_vocab():
        return "the champion reads other tokens, of which a loss cannot be compared"
    if champion.template_sha256 != challenger.template_sha256:
        return "the champion was trained on another chat template"
    return ""

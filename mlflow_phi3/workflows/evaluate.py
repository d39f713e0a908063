"""``evaluate``: the winner and the untuned base on the test split."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_phi3.azure.safety import ContentSafety, safety_from
from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.words import EvaluateWord
from mlflow_phi3.data.messages import to_dicts
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.compare import Comparison, compare
from mlflow_phi3.evaluation.labels import LabelReport
from mlflow_phi3.evaluation.losses import from_rows, to_rows
from mlflow_phi3.evaluation.notation import count_of, show_short
from mlflow_phi3.evaluation.report import render_report, tell_verdict
from mlflow_phi3.evaluation.runner import Evaluation
from mlflow_phi3.evaluation.runner import evaluate as measure
from mlflow_phi3.evaluation.safety import scan_answers
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.tracking.datasets import log_datasets
from mlflow_phi3.tracking.judges import JudgedAnswer, choose_scorers, judge_answers
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.workflows.context import Context, open_base, open_context
from mlflow_phi3.workflows.ending import show_look, show_step
from mlflow_phi3.workflows.prepare import dataset_facts
from mlflow_phi3.workflows.screen import Update
from mlflow_phi3.workflows.sweep import (
    SWEEP_RUN,
    WINNER_RUN,
    Winner,
    load_winner,
    prepare_as_swept,
)

_REPORT = "eval/report.html"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the test split says.

    Args:
        base: Of the untuned base.
        tuned: Of the winner.
        comparison: The winner's loss minus the base's, row by row.
    """

    base: Evaluation
    tuned: Evaluation
    comparison: Comparison


def run(config: EvaluateWord) -> None:
    """Run the step by itself, on a sweep of the store."""
    context = open_context(config)
    winner = load_winner(context, config.sweep_run, where="sweep_run")
    with context.root("evaluate", config) as root:
        data = prepare_as_swept(context, winner, root)
        check_test(data)
        measured = evaluate(context, config, open_base(winner.config, data), data, winner, root)
    show_measures(context, measured)
    show_look(context, root, _REPORT)
    show_step(context, f"mlflow-phi3 register --evaluate_run {root.run_id}")


def check_test(data: PreparedData) -> None:
    """Refuse data without test rows, while that has cost nothing.

    Raises:
        DataError: There are none.
    """
    if not data.manifest.splits["test"].rows:
        raise DataError(
            "PHI3-D078",
            "no row is left to test on",
            where="test_data",
            fix="give test_data, a larger test_split, or more rows",
        )


def evaluate(
    context: Context,
    config: EvaluateConfig,
    base: Base,
    data: PreparedData,
    winner: Winner,
    run: Run,
) -> Measured:
    """Measure both; numbers, answers and the comparison go to ``run``."""
    # A judge that cannot be meant stops here, not after the measuring.
    judges = choose_judges(config)
    service = safety_from(os.environ)
    run.set_tags({SWEEP_RUN: winner.sweep_run, WINNER_RUN: winner.run_id})
    log_datasets(run, dataset_facts(data, ("test",)))
    examples, conversations = data.examples("test"), data.conversations("test")
    with context.screen.stage("evaluate") as update:
        untuned = measure(
            base, None, examples, conversations, config=config, on_progress=_tell(update, "base")
        )
        tuned = measure(
            base,
            winner.adapter,
            examples,
            conversations,
            config=config,
            on_progress=_tell(update, winner.name),
        )
    comparison = compare(
        tuned.per_example,
        untuned.per_example,
        confidence=config.confidence,
        resamples=config.resamples,
    )
    measured = Measured(untuned, tuned, comparison)
    _log(run, measured)
    if tuned.predictions and (judges or service):
        ask_others(context, run, tuned, judges, service)
    return measured


def load_evaluation(context: Context, run: Run) -> Evaluation:
    """What a finished evaluation found of the winner, without its answers."""
    folder = context.workspace / "fetched" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    metrics = json.loads(run.download("eval/metrics.json", folder).read_text("utf-8"))["test"]
    rows = json.loads(run.download("eval/per_example.json", folder).read_text("utf-8"))
    return Evaluation(metrics, from_rows(rows))


def ask_others(
    context: Context, run: Run, tuned: Evaluation, judges: list[Any], service: ContentSafety | None
) -> None:
    """What others say of the winner's answers: a judge model, and a content filter."""
    rows = tuned.predictions
    if service is not None:
        with context.screen.stage("content safety") as update:
            unsafe = scan_answers(
                rows, service, on_progress=lambda done: update(f"{done}/{len(rows)} answers")
            )
        run.log_metrics({"test/unsafe_answers": len(unsafe) / len(rows)})
        run.log_json([asdict(row) for row in unsafe], "eval/unsafe.json")
    if judges:
        answers = [
            JudgedAnswer(tuple(to_dicts(row.prompt)), row.answer, row.expected) for row in rows
        ]
        with context.screen.stage("judge"):
            shares = judge_answers(run, answers, judges)
        run.log_metrics({f"test/judged_{name}": share for name, share in shares.items()})
        for scorer in judges:
            verdicts = shares[f"{scorer.name}_verdicts"]
            if verdicts < len(rows):
                context.screen.say(
                    f"  the judge gave {count_of(round(verdicts), 'verdict')} on {scorer.name} "
                    f"of {len(rows)} answers; the run's traces say why",
                    event="judged",
                )


def choose_judges(config: EvaluateConfig) -> list[Any]:
    """The scorers of the judge that is configured; none without a judge.

    Raises:
        UsageError: A scorer or a judge that is none.
    """
    if not config.judge_model:
        return []
    return choose_scorers(
        config.judge_scorers, model=config.judge_model, guidelines=config.judge_guidelines
    )


def show_measures(context: Context, measured: Measured) -> None:
    """Print base beside tuned, and whether the difference is more than noise."""
    base, tuned = measured.base.metrics, measured.tuned.metrics
    context.screen.facts("measured", base=dict(base), tuned=dict(tuned))
    rows = [
        [name, show_short(base[name]), show_short(tuned[name])] for name in tuned if name in base
    ]
    title = f"Test split: {count_of(measured.comparison.rows, 'row')}"
    context.screen.table(title, ["metric", "untuned base", "tuned"], rows)
    context.screen.say(tell_verdict(measured.comparison, measured.tuned), event="verdict")


def _log(run: Run, measured: Measured) -> None:
    base, tuned = measured.base, measured.tuned
    run.log_metrics({f"base/{name}": value for name, value in base.metrics.items()})
    run.log_metrics({f"test/{name}": value for name, value in tuned.metrics.items()})
    run.log_json(
        {"base": base.metrics, "test": tuned.metrics, "comparison": asdict(measured.comparison)},
        "eval/metrics.json",
    )
    if base.labels is not None and tuned.labels is not None:
        _log_labels(run, base.labels, tuned.labels)
    else:
        _log_answers(run, base, tuned)
    run.log_json(to_rows(tuned.per_example), "eval/per_example.json")
    run.log_text(render_report(base, tuned, measured.comparison), _REPORT)


def _log_answers(run: Run, base: Evaluation, tuned: Evaluation) -> None:
    pairs = list(zip(base.predictions, tuned.predictions, strict=True))
    run.log_table(
        {
            "place": [b.place for b, _ in pairs],
            "question": [b.prompt[-1].content for b, _ in pairs],
            "expected": [b.expected for b, _ in pairs],
            "untuned base": [b.answer for b, _ in pairs],
            "tuned": [t.answer for _, t in pairs],
            "f1 base": [b.f1 for b, _ in pairs],
            "f1 tuned": [t.f1 for _, t in pairs],
        },
        "eval/predictions.json",
    )


def _log_labels(run: Run, base: LabelReport, tuned: LabelReport) -> None:
    pairs = list(zip(base.predictions, tuned.predictions, strict=True))
    run.log_table(
        {
            "place": [t.place for _, t in pairs],
            "text": [t.text for _, t in pairs],
            "expected": [t.expected for _, t in pairs],
            "untuned base": [b.label for b, _ in pairs],
            "tuned": [t.label for _, t in pairs],
            "score": [t.score for _, t in pairs],
            "right": [t.label == t.expected for _, t in pairs],
        },
        "eval/predictions.json",
    )
    if tuned.metrics is not None:
        counts = tuned.metrics.confusion.tolist()
        run.log_json({"labels": list(tuned.labels), "rows": counts}, "eval/confusion.json")


def _tell(update: Update, who: str) -> Callable[[str, int, int], None]:
    def tell(stage: str, done: int, total: int) -> None:
        # A bare "loss 1" would read as a loss of 1.
        what = {"loss": "losses"}.get(stage, stage)
        update(f"{who}: {what}, {done}/{total}" if total else f"{who}: {what}, {done} done")

    return tell

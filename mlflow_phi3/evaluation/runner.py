"""Measure a model on examples: losses of all, generated answers of some."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.data.messages import Conversation, Example, Message
from mlflow_phi3.evaluation import metrics
from mlflow_phi3.evaluation.labels import LabelReport, measure_labels
from mlflow_phi3.evaluation.plugins import AnswerMetric, load_metrics, score_answer
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.generate import Ids, generate_from_ids
from mlflow_phi3.training.scoring import ExampleScore, score


@dataclass(frozen=True, slots=True)
class Prediction:
    """One generated answer beside the expected one.

    Args:
        place: ``source:line`` of the conversation.
        prompt: The messages before the answer.
        expected: The conversation's own last message.
        answer: What the model says.
        exact_match: See :func:`mlflow_phi3.evaluation.metrics.exact_match`.
        f1: See :func:`mlflow_phi3.evaluation.metrics.token_f1`.
        rouge_l: See :func:`mlflow_phi3.evaluation.metrics.rouge_l`.
        others: Scores of metrics that other packages bring, by name.
    """

    place: str
    prompt: tuple[Message, ...]
    expected: str
    answer: str
    exact_match: float
    f1: float
    rouge_l: float
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of a model after reading the test split.

    Args:
        metrics: ``loss``, ``perplexity``, ``token_accuracy``, ``supervised_tokens``; and, when
            answers were generated, ``exact_match``, ``f1``, ``rouge_l`` and those that installed
            packages add (:mod:`mlflow_phi3.evaluation.plugins`). Of a classifier: ``loss``,
            ``accuracy``, ``f1_macro``, ``f1_weighted``.
        per_example: Each example's loss with its place, in order: a few hundred bytes a row,
            all that grows with the test set.
        predictions: The generated answers, in order; none of a classifier.
        labels: Of a classifier: what became of the labels.
    """

    metrics: dict[str, float]
    per_example: tuple[ExampleScore, ...]
    predictions: tuple[Prediction, ...] = ()
    labels: LabelReport | None = None


def evaluate(
    base: Base,
    adapter: Path | None,
    examples: Iterable[Example],
    conversations: Iterable[Conversation],
    *,
    config: EvaluateConfig,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Measure base plus ``adapter`` (None: the untuned base).

    Args:
        base: The frozen base; left as it was.
        adapter: Folder in PEFT's format.
        examples: The test split, tokenised; read once, one after the other. What is asked of them
            is answered, cut as they were prepared.
        conversations: The same rows in the same order; only the first ``config.answers`` are read.
        config: How much is generated.
        on_progress: Called with (``loss`` or ``answers``, done, in all; 0 when not known).

    Raises:
        TrainingError: The adapter does not fit the base.
        UsageError: A metric of another package cannot be loaded, before anything is measured.
        DataError: The base classifies, and a row has a label it does not know.
    """
    asked = tuple(itertools.islice(conversations, config.answers))

    def told(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(stage, done, total) if on_progress else None

    if base.labels:
        found = measure_labels(
            base,
            adapter,
            examples,
            asked,
            batch_size=config.generation_batch_size,
            on_progress=lambda done: told("loss")(done, 0),
        )
        return Evaluation(label_figures(found), found.per_example, labels=found)
    return _evaluate_chat(base, adapter, examples, asked, config=config, told=told)


def _evaluate_chat(
    base: Base,
    adapter: Path | None,
    examples: Iterable[Example],
    asked: Sequence[Conversation],
    *,
    config: EvaluateConfig,
    told: Callable[[str], Callable[[int, int], None]],
) -> Evaluation:
    added = load_metrics()
    rows = iter(examples)
    first = list(itertools.islice(rows, len(asked)))
    prompts = [_prompt(example) for example in first]
    totals = metrics.TokenTotals()
    per_example: list[ExampleScore] = []
    for row in score(base, adapter, itertools.chain(first, rows)):
        totals += metrics.TokenTotals(row.nll, row.tokens, row.correct)
        per_example.append(row)
        told("loss")(len(per_example), 0)
    with with_adapter(base, adapter) as model:
        answers = generate_from_ids(
            model,
            base.tokenizer,
            prompts,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.generation_batch_size,
            on_progress=told("answers"),
        )
    pairs = zip(asked, answers, strict=True)
    predictions = tuple(predict(talk, text, added) for talk, text in pairs)
    return Evaluation(
        metrics=token_metrics(totals) | answer_metrics(predictions),
        per_example=tuple(per_example),
        predictions=predictions,
    )


def _prompt(example: Example) -> Ids:
    """Its tokens up to where its last answer begins."""
    learnt = example.supervised
    begins = np.flatnonzero(learnt[1:] & ~learnt[:-1]) + 1
    return example.input_ids[: begins[-1]]


def predict(
    conversation: Conversation, answer: str, added: Mapping[str, AnswerMetric]
) -> Prediction:
    """Score one answer against its conversation, by our metrics and the ``added`` ones."""
    expected = conversation.messages[-1].content
    return Prediction(
        place=conversation.place,
        prompt=conversation.messages[:-1],
        expected=expected,
        answer=answer,
        exact_match=metrics.exact_match(expected, answer),
        f1=metrics.token_f1(expected, answer),
        rouge_l=metrics.rouge_l(expected, answer),
        others=score_answer(added, expected, answer),
    )


def token_metrics(totals: metrics.TokenTotals) -> dict[str, float]:
    """The metrics that follow from token totals, by name."""
    return {
        "loss": metrics.loss(totals),
        "perplexity": metrics.perplexity(totals),
        "token_accuracy": metrics.token_accuracy(totals),
        "supervised_tokens": float(totals.tokens),
    }


def label_figures(found: LabelReport) -> dict[str, float]:
    """A classifier's metrics, by name; the loss alone when there was no row."""
    figures = {"loss": found.loss}
    if found.metrics is not None:
        figures |= {
            "accuracy": found.metrics.accuracy,
            "f1_macro": found.metrics.f1_macro,
            "f1_weighted": found.metrics.f1_weighted,
        }
    return figures


def answer_metrics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Means over the predictions, by name; empty without any."""
    if not predictions:
        return {}
    return {
        "exact_match": fmean(row.exact_match for row in predictions),
        "f1": fmean(row.f1 for row in predictions),
        "rouge_l": fmean(row.rouge_l for row in predictions),
        **{name: fmean(row.others[name] for row in predictions) for name in predictions[0].others},
    }

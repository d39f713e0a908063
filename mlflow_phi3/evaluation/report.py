"""The untuned base beside the tuned model, as one HTML page without anything from elsewhere."""

import math
from collections.abc import Sequence
from typing import Any

from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.notation import count_of, show_figure
from mlflow_phi3.evaluation.runner import Evaluation
from mlflow_phi3.pages import page_template

# Metrics of which less is better.
_LESS = {"loss", "perplexity"}
_WORST = 10  # so many of the rows with the highest loss are shown
_WIDTH, _MARGIN = 640, 60  # of the interval's drawing, as in the template


def render_report(
    base: Evaluation,
    tuned: Evaluation,
    comparison: Comparison,
) -> str:
    """Draw the page.

    Args:
        base: Of the untuned base, on the same rows and conversations as ``tuned``.
        tuned: Of the tuned model.
        comparison: Tuned minus base.

    Returns:
        HTML; every text of the data is escaped.
    """
    return page_template("mlflow_phi3.evaluation", "report.html.jinja").render(
        count=count_of,
        rows=comparison.rows,
        read=_read(tuned),
        verdict=_verdict(comparison, tuned),
        plot=_plot(comparison),
        metrics=[_metric(name, base, tuned, comparison) for name in _names(base, tuned)],
        worst=_worst(base, tuned),
        labelled=len(tuned.labels.predictions) if tuned.labels is not None else 0,
        answers=_answers(base, tuned),
        confusion=_confusion(tuned),
    )


def _read(tuned: Evaluation) -> str:
    if tuned.labels is not None:
        return count_of(len(tuned.labels.labels), "label")
    return count_of(round(tuned.metrics["supervised_tokens"]), "supervised token")


def _confusion(tuned: Evaluation) -> list[dict[str, Any]]:
    """Rows of the confusion matrix: expected label, and how often each was predicted."""
    if tuned.labels is None or tuned.labels.metrics is None:
        return []
    counts = tuned.labels.metrics.confusion.tolist()
    return [
        {"label": name, "counts": row, "at": at}
        for at, (name, row) in enumerate(zip(tuned.labels.labels, counts, strict=True))
    ]


def _names(base: Evaluation, tuned: Evaluation) -> list[str]:
    return [name for name in tuned.metrics if name in base.metrics and name != "supervised_tokens"]


def _metric(
    name: str, base: Evaluation, tuned: Evaluation, comparison: Comparison
) -> dict[str, str]:
    before, after = base.metrics[name], tuned.metrics[name]
    gained = (before - after) if name in _LESS else (after - before)
    # What the verdict takes for noise is neither good nor bad in the table.
    telling = name not in _LESS or comparison.significant
    style = "better" if gained > 0 else "worse-number" if gained < 0 else ""
    return {
        "name": name,
        "base": show_figure(before),
        "tuned": show_figure(after),
        "change": show_figure(after - before, signed=True),
        "style": style if telling else "",
    }


def tell_verdict(comparison: Comparison, tuned: Evaluation) -> str:
    """What the comparison of ``tuned`` with the base says, in a sentence."""
    return _verdict(comparison, tuned)["text"]


def _verdict(comparison: Comparison, tuned: Evaluation) -> dict[str, str]:
    """What the comparison says, in words and as a colour."""
    unit = "token" if tuned.labels is None else "row"
    loss = f"test loss {show_figure(comparison.difference, signed=True)} nats per {unit}"
    open_ = {"style": "open", "colour": "soft"}
    if math.isnan(comparison.difference) or math.isnan(comparison.low):
        return open_ | {"text": "The two cannot be compared: some loss is no number."}
    if comparison.too_few:
        told = f"{count_of(comparison.rows, 'test row')} cannot tell the two apart: {loss}."
        return open_ | {"text": told}
    low, high = (show_figure(end, signed=True) for end in (comparison.low, comparison.high))
    figures = f"{loss} ({comparison.confidence:.0%} interval {low} to {high})"
    if comparison.better:
        text = f"The tuned model is better beyond noise: {figures}."
        return {"style": "", "colour": "good", "text": text}
    if comparison.significant:
        text = f"The tuned model is worse beyond noise: {figures}."
        return {"style": "worse", "colour": "bad", "text": text}
    return open_ | {"text": f"The difference may be noise: {figures}."}


def _plot(comparison: Comparison) -> dict[str, float]:
    """Where the interval and zero lie in the drawing, in its units; what is not known is left out.

    Nothing is drawn of a difference that is no number.
    """
    if not math.isfinite(comparison.difference):
        return {}
    marks = {"zero": 0.0, "middle": comparison.difference}
    if math.isfinite(comparison.low) and math.isfinite(comparison.high):
        marks |= {"low": comparison.low, "high": comparison.high}
    left, right = min(marks.values()), max(marks.values())
    scale = (_WIDTH - 2 * _MARGIN) / ((right - left) or 1.0)
    return {name: round(_MARGIN + (value - left) * scale, 1) for name, value in marks.items()}


def _worst(base: Evaluation, tuned: Evaluation) -> list[dict[str, Any]]:
    """The rows with the highest loss; a classifier's with text and labels, where they are kept."""
    pairs = zip(base.per_example, tuned.per_example, strict=True)
    ranked = sorted(enumerate(pairs), key=lambda row: row[1][1].loss, reverse=True)[:_WORST]
    said = tuned.labels.predictions if tuned.labels is not None else ()
    return [
        {
            "place": after.place,
            "tokens": after.tokens,
            "base": show_figure(before.loss, 3),
            "tuned": show_figure(after.loss, 3),
            "said": said[at] if at < len(said) else None,
        }
        for at, (before, after) in ranked
    ]


def _answers(base: Evaluation, tuned: Evaluation) -> Sequence[dict[str, Any]]:
    return [
        {
            "place": after.place,
            "earlier": after.prompt[:-1],
            "question": after.prompt[-1].content if after.prompt else "",
            "expected": after.expected,
            "base": before.answer,
            "tuned": after.answer,
            "f1": f"{after.f1:.2f}",
        }
        for before, after in zip(base.predictions, tuned.predictions, strict=True)
    ]

"""The untuned base beside the tuned model, as one HTML page without anything from elsewhere."""

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.runner import Evaluation

# Metrics of which less is better.
_LESS = {"loss", "perplexity"}
_WIDTH, _MARGIN = 640, 60  # of the interval's drawing, as in the template


def render_report(
    base: Evaluation,
    tuned: Evaluation,
    comparison: Comparison,
    *,
    title: str = "Base and tuned model",
    worst: int = 10,
) -> str:
    """Draw the page.

    Args:
        base: Of the untuned base, on the same rows and conversations as ``tuned``.
        tuned: Of the tuned model.
        comparison: Tuned minus base.
        title: Heading.
        worst: How many of the rows with the highest loss are shown.

    Returns:
        HTML; every text of the data is escaped.
    """
    environment = Environment(
        loader=PackageLoader("mlflow_phi3.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        rows=comparison.rows,
        read=_read(tuned),
        verdict=_verdict(comparison, unit="token" if tuned.labels is None else "row"),
        plot=_plot(comparison),
        metrics=[_metric(name, base, tuned) for name in _names(base, tuned)],
        worst=_worst(base, tuned, worst),
        answers=_answers(base, tuned),
        confusion=_confusion(tuned),
    )


def _read(tuned: Evaluation) -> str:
    if tuned.labels is not None:
        return f"{len(tuned.labels.labels)} labels"
    return f"{tuned.metrics['supervised_tokens']:,.0f} supervised tokens"


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


def _metric(name: str, base: Evaluation, tuned: Evaluation) -> dict[str, str]:
    before, after = base.metrics[name], tuned.metrics[name]
    gained = (before - after) if name in _LESS else (after - before)
    style = "better" if gained > 0 else "worse-number" if gained < 0 else ""
    return {
        "name": name,
        "base": f"{before:.4f}",
        "tuned": f"{after:.4f}",
        "change": f"{after - before:+.4f}",
        "style": style,
    }


def _verdict(comparison: Comparison, *, unit: str) -> dict[str, str]:
    figures = (
        f"test loss {comparison.difference:+.4f} nats per {unit} "
        f"({comparison.confidence:.0%} interval {comparison.low:+.4f} to {comparison.high:+.4f})"
    )
    if comparison.better:
        return {"style": "", "text": f"The tuned model is better beyond noise: {figures}."}
    if comparison.significant:
        return {"style": "worse", "text": f"The tuned model is worse beyond noise: {figures}."}
    return {"style": "open", "text": f"The difference may be noise: {figures}."}


def _plot(comparison: Comparison) -> dict[str, float]:
    """Where the interval and zero lie in the drawing, in its units."""
    marks = {
        "zero": 0.0,
        "low": comparison.low,
        "middle": comparison.difference,
        "high": comparison.high,
    }
    known = [value for value in marks.values() if math.isfinite(value)]
    left, right = min(known), max(known)
    scale = (_WIDTH - 2 * _MARGIN) / ((right - left) or 1.0)

    def place(value: float) -> float:
        if math.isfinite(value):
            return round(_MARGIN + (value - left) * scale, 1)
        return _WIDTH - _MARGIN if value > 0 else _MARGIN

    return {name: place(value) for name, value in marks.items()}


def _worst(base: Evaluation, tuned: Evaluation, count: int) -> list[dict[str, Any]]:
    pairs = zip(base.per_example, tuned.per_example, strict=True)
    ranked = sorted(pairs, key=lambda pair: pair[1].loss, reverse=True)[:count]
    return [
        {
            "place": after.place,
            "tokens": after.tokens,
            "base": f"{before.loss:.3f}",
            "tuned": f"{after.loss:.3f}",
        }
        for before, after in ranked
    ]


def _answers(base: Evaluation, tuned: Evaluation) -> Sequence[dict[str, str]]:
    return [
        {
            "place": after.place,
            "question": after.prompt[-1].content if after.prompt else "",
            "expected": after.expected,
            "base": before.answer,
            "tuned": after.answer,
            "f1": f"{after.f1:.2f}",
        }
        for before, after in zip(base.predictions, tuned.predictions, strict=True)
    ]

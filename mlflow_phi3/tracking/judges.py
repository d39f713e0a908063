"""Answers judged by a language model: MLflow's own scorers, through ``mlflow.genai.evaluate``."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.run import Run

_SCORERS = {
    "completeness": "Completeness",
    "correctness": "Correctness",
    "equivalence": "Equivalence",
    "fluency": "Fluency",
    "relevance": "RelevanceToQuery",
    "safety": "Safety",
}


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer that is to be judged.

    Args:
        messages: The conversation before it, as ``{"role", "content"}``.
        answer: What the model says.
        expected: What it should say.
    """

    messages: tuple[Mapping[str, str], ...]
    answer: str
    expected: str


def choose_scorers(names: str, *, model: str, guidelines: str = "") -> list[Any]:
    """MLflow's scorers for a comma-separated list of names.

    Args:
        names: ``correctness``, ``relevance`` and their kin.
        model: The judge, as MLflow names models: ``openai:/gpt-4.1-mini``, ``endpoints:/judge``.
        guidelines: Rules in words that every answer has to keep; one more scorer when not empty.

    Raises:
        UsageError: A name that is none.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = sorted(set(wanted) - _SCORERS.keys())
    if unknown:
        raise UsageError(
            "PHI3-U071",
            f"no scorer named {unknown[0]!r}",
            where="judge_scorers",
            fix=f"choose among {', '.join(_SCORERS)}",
        )
    # MLflow itself finds out only when the first answer is judged.
    provider, _, name = model.partition(":/")
    if not provider or not name:
        raise UsageError(
            "PHI3-U072",
            f"{model!r} names no judge",
            where="judge_model",
            fix="write it as openai:/gpt-4.1-mini",
        )
    # A second to import, and most evaluations have no judge.
    theirs = importlib.import_module("mlflow.genai.scorers")
    scorers = [getattr(theirs, _SCORERS[each])(name=each, model=model) for each in wanted]
    if guidelines:
        scorers.append(theirs.Guidelines(name="guidelines", guidelines=guidelines, model=model))
    return scorers


def judge_answers(run: Run, rows: Sequence[JudgedAnswer], scorers: list[Any]) -> dict[str, float]:
    """Let a judge read ``rows``; each verdict is an assessment of a trace in the MLflow UI.

    Args:
        run: Traces and metrics go to it.
        rows: The answers, at least one.
        scorers: As :func:`choose_scorers` makes them.

    Returns:
        By scorer, the share of good verdicts, and as ``<scorer>_verdicts`` how many there are: not
        every answer needs to get one.

    Raises:
        PreflightError: The judge did not judge a single answer.
    """
    data = [
        {
            "inputs": {"messages": [dict(turn) for turn in row.messages]},
            "outputs": row.answer,
            "expectations": {"expected_response": row.expected},
        }
        for row in rows
    ]
    run.flush()
    with run.current():
        found = mlflow.genai.evaluate(data=data, scorers=scorers)
    shares = {
        name.removesuffix("/mean"): float(value)
        for name, value in found.metrics.items()
        if name.endswith("/mean")
    }
    silent = [scorer.name for scorer in scorers if scorer.name not in shares]
    if silent:
        raise PreflightError(
            "PHI3-P071",
            f"the judge gave no verdict on {', '.join(silent)}",
            where="judge_model",
            fix="look at the traces of the run; check the judge's name and key",
        )
    counts = {
        f"{name}_verdicts": float(found.result_df[f"{name}/value"].notna().sum()) for name in shares
    }
    return shares | counts

"""``prepare``: files in, checked, split and tokenised examples out, nothing lost on the way."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data import jsonl
from mlflow_phi3.data.collect import Collected, collect
from mlflow_phi3.data.manifest import NAME
from mlflow_phi3.data.prepared import SHARDS, PreparedData, load_prepared
from mlflow_phi3.data.sources import Source, parse_sources
from mlflow_phi3.data.template import ChatTokenizer, TemplateSource
from mlflow_phi3.data.work import Outcome, Piece, Settings, Worker, each

__all__ = ["PreparedData", "load_prepared", "prepare"]

# Part of every key: raise it when the same input would be prepared differently.
PREPARATION = 1
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read.

    Args:
        sources: In the order of their splits.
        pieces: All pieces of all sources.
        digests: SHA-256 of each source.
    """

    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]
    digests: tuple[str, ...]


def prepare(
    config: PrepareConfig,
    tokenizer: ChatTokenizer,
    *,
    folder: Path,
    context_length: int = 0,
    on_progress: Progress | None = None,
) -> PreparedData:
    """Prepare the data, or find it prepared.

    Args:
        config: The settings.
        tokenizer: The base model's tokenizer, with its chat template.
        folder: Root of all preparations; this one lies beneath, under the hash of its content.
        context_length: Tokens the model can read; 0 when not known.
        on_progress: Told what is being done, and the share of it that is done if known.

    Raises:
        DataError: Rows that cannot be trained on, all of them listed in ``findings.jsonl``.
    """
    tell = on_progress or _silent
    tell("reading the sources", None)
    plan = plan_sources(config)
    template = TemplateSource.from_tokenizer(tokenizer)
    max_length = min(filter(None, (config.max_length, context_length)), default=0)
    key = content_key(plan, config, template, max_length)
    final = folder / key
    if (final / NAME).is_file():
        tell("found prepared", 1.0)
        return load_prepared(final)
    partial = _fresh(folder / f".{key}.{os.getpid()}.partial")
    try:
        settings = Settings(partial / SHARDS, template, config, max_length)
        outcomes = _prepare_pieces(settings, plan.pieces, tell)
        collected = Collected(
            folder=partial,
            failed=folder / f"failed-{key}",
            key=key,
            sources=plan.sources,
            digests=plan.digests,
            settings=settings,
            pieces=plan.pieces,
            outcomes=tuple(outcomes),
        )
        collect(collected, tell)
        _publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_prepared(final)


def plan_sources(config: PrepareConfig) -> Plan:
    """Find the sources and cut them into pieces.

    Raises:
        DataError: A source is not there or cannot be read.
    """
    sources: list[Source] = []
    for split in ("train", "validation", "test"):
        sources += parse_sources(getattr(config, f"{split}_data"), split)
    pieces: list[Piece] = []
    digests: list[str] = []
    for number, source in enumerate(sources):
        spans, digest = jsonl.plan_spans(source.path)
        digests.append(digest)
        pieces += [
            Piece(len(pieces) + place, source, number, span) for place, span in enumerate(spans)
        ]
    return Plan(tuple(sources), tuple(pieces), tuple(digests))


def content_key(
    plan: Plan, config: PrepareConfig, template: TemplateSource, max_length: int
) -> str:
    """Name of a preparation: equal for equal content, settings, tokenizer and template."""
    settings = config.model_dump(exclude={"train_data", "validation_data", "test_data"})
    settings.pop("prepare_workers")
    facts = [
        PREPARATION,
        [(source.name, source.split, source.weight) for source in plan.sources],
        plan.digests,
        settings,
        max_length,
        template.sha256,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _prepare_pieces(settings: Settings, pieces: Sequence[Piece], tell: Progress) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for outcome in each(Worker(settings), pieces):
        outcomes.append(outcome)
        tell("checking and tokenising", len(outcomes) / len(pieces))
    return outcomes


def _fresh(partial: Path) -> Path:
    shutil.rmtree(partial, ignore_errors=True)
    (partial / SHARDS).mkdir(parents=True)
    return partial


def _publish(partial: Path, final: Path) -> None:
    """Rename a finished preparation into place; another process may have been first."""
    try:
        partial.rename(final)
    except OSError:
        if not (final / NAME).is_file():
            raise


def _silent(_what: str, _share: float | None) -> None:
    return None

"""``prepare``: files in, checked, split and tokenised examples out, nothing lost on the way."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.config.prepare import SPLITS, PrepareConfig
from mlflow_phi3.data.collected import Collected
from mlflow_phi3.data.decide import decide
from mlflow_phi3.data.finish import finish
from mlflow_phi3.data.manifest import NAME
from mlflow_phi3.data.pool import work_pieces
from mlflow_phi3.data.prepared import SHARDS, PreparedData, load_prepared
from mlflow_phi3.data.shards import shard_name
from mlflow_phi3.data.sources import Planned, parse_sources, plan_source, tell_apart
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.data.template import ChatTokenizer, TemplateSource
from mlflow_phi3.data.work import Outcome, Piece, Settings
from mlflow_phi3.errors import DataError, UsageError
from mlflow_phi3.scratch import scratch_folder

# Part of every key: raise it when the same input would be prepared differently.
PREPARATION = 8
_NOT_CONTENT = {"train_data", "validation_data", "test_data", "prepare_workers"}
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read.

    Args:
        planned: The sources, in the order of their splits.
        pieces: All pieces of all sources.
    """

    planned: tuple[Planned, ...]
    pieces: tuple[Piece, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all sources."""
        return sum(planned.source.size_bytes for planned in self.planned)


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
        folder: Root of all preparations; this one lies beneath, under the hash of its content. Its
            report compares it with the last one of sources with the same names.
        context_length: Tokens the model can read; 0 when not known.
        on_progress: Told what is being done, and the share of it that is done if known.

    Raises:
        UsageError: ``max_length`` is more than the model can read.
        DataError: Rows that cannot be trained on, all of them listed in ``findings.jsonl``; a
            source that cannot be read, or a folder that cannot be written.
    """
    tell = on_progress or _silent
    tell("reading the sources", None)
    plan = plan_sources(config)
    template = TemplateSource.from_tokenizer(tokenizer)
    max_length = _longest(config.max_length, context_length)
    key = content_key(plan, config, template, max_length)
    final = folder / key
    found = _find_whole(final, plan)
    if found is not None:
        tell("found prepared", 1.0)
        return found
    with _telling_of_the_disk(folder), scratch_folder(folder, key) as partial:
        (partial / SHARDS).mkdir()
        settings = Settings(partial / SHARDS, template, config, max_length)
        given = Collected(
            folder=partial,
            failed=folder / f"failed-{key}",
            key=key,
            planned=plan.planned,
            settings=settings,
            pieces=plan.pieces,
            outcomes=tuple(_prepare_pieces(settings, plan, tell)),
        )
        decided = decide(given, tell)
        tell("writing the report", None)
        finish(given, decided, previous=_latest(folder, plan))
        _publish(partial, final)
    shutil.rmtree(folder / f"failed-{key}", ignore_errors=True)
    _note_latest(folder, plan, key)
    return load_prepared(final)


@contextmanager
def _telling_of_the_disk(folder: Path) -> Iterator[None]:
    """Make an error of ours of what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise DataError(
            "PHI3-D051",
            f"a file cannot be read or written: {error}",
            where=str(folder),
            fix="free space, set workspace to a folder on another disk, or bring back the source",
        ) from error


def _find_whole(final: Path, plan: Plan) -> PreparedData | None:
    """A finished preparation; one of which a loss of power has cut files is removed.

    Raises:
        DataError: The disk refuses.
    """
    shards = [final / SHARDS / shard_name(piece.number) for piece in plan.pieces]
    with _telling_of_the_disk(final.parent):
        if not final.is_dir():  # and another process may be about to put it there
            return None
        try:
            if all(shard.stat().st_size for shard in shards):
                return load_prepared(final)
        except (FileNotFoundError, DataError, ValueError):
            pass  # a file is missing, or the manifest cannot be read
    shutil.rmtree(final, ignore_errors=True)
    return None


def _longest(asked: int, context_length: int) -> int:
    """Tokens that a conversation may have; 0 sets no limit."""
    if 0 < context_length < asked:
        raise UsageError(
            "PHI3-U052",
            f"{asked:,} tokens, but the model reads {context_length:,}",
            where="max_length",
            fix="leave it out, or choose a model that reads more",
        )
    return asked or context_length


def plan_sources(config: PrepareConfig) -> Plan:
    """Find the sources and cut them into pieces.

    Raises:
        DataError: A source is not there or cannot be read.
    """
    try:
        sources = [
            source
            for split in SPLITS
            for source in parse_sources(getattr(config, f"{split}_data"), split)
        ]
        planned = [plan_source(source, config) for source in tell_apart(sources)]
    except OSError as error:
        raise DataError(
            "PHI3-D030",
            f"cannot be read: {error.strerror or error}",
            where=str(error.filename or "train_data"),
            fix="mend its permissions, or copy it to a disk of this machine",
        ) from error
    pieces: list[Piece] = []
    for number, one in enumerate(planned):
        for file, span in one.spans:
            pieces.append(Piece(len(pieces), one.source, number, file, span, one.reader))
    return Plan(tuple(planned), tuple(pieces))


def content_key(
    plan: Plan, config: PrepareConfig, template: TemplateSource, max_length: int
) -> str:
    """Name of a preparation: equal for equal content, settings, tokenizer and template."""
    sources = [
        (one.source.name, one.source.split, one.source.weight, one.sha256) for one in plan.planned
    ]
    settings = config.model_dump(include=PrepareConfig.model_fields.keys() - _NOT_CONTENT)
    facts = [PREPARATION, sources, settings, max_length, template.sha256]
    facts += filter(None, [find_task(config.task).version])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _prepare_pieces(settings: Settings, plan: Plan, tell: Progress) -> list[Outcome]:
    outcomes: list[Outcome] = []
    # Closed here, so that an interrupt ends the processes at once and not when Python gets to it.
    with closing(work_pieces(settings, plan.pieces, size_bytes=plan.size_bytes)) as working:
        for outcome in working:
            outcomes.append(outcome)
            tell("checking and tokenising", len(outcomes) / len(plan.pieces))
    return outcomes


def _publish(partial: Path, final: Path) -> None:
    """Rename a finished preparation into place; another process may have been first."""
    try:
        partial.rename(final)
    except OSError:
        if not (final / NAME).is_file():
            raise


def _latest(folder: Path, plan: Plan) -> Path | None:
    known = _read_latest(folder).get(_names(plan))
    return folder / known / "report.json" if known else None


def _note_latest(folder: Path, plan: Plan, key: str) -> None:
    notes = {**_read_latest(folder), _names(plan): key}
    beside = folder / f".latest.{os.getpid()}.json"
    beside.write_text(json.dumps(notes), encoding="utf-8")
    beside.replace(folder / "latest.json")


def _read_latest(folder: Path) -> dict[str, str]:
    try:
        notes = json.loads((folder / "latest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _names(plan: Plan) -> str:
    return ", ".join(f"{one.source.split}={one.source.name}" for one in plan.planned)


def _silent(_what: str, _share: float | None) -> None:
    return None

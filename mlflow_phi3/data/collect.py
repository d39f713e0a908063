"""What only all rows together can tell: duplicates, sides, figures, and whether to go on."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.digest import Keys, digest_keys, digest_text
from mlflow_phi3.data.findings import RULES, Tally, join_findings, join_parts
from mlflow_phi3.data.manifest import Counts, Manifest, SourceFacts, SplitFacts
from mlflow_phi3.data.shards import Rows, ShardStore
from mlflow_phi3.data.sources import Source
from mlflow_phi3.data.split import SPLITS, TEST, TRAIN, VALIDATION, fill_empty, split_by_hash
from mlflow_phi3.data.work import Outcome, Piece, Settings
from mlflow_phi3.errors import DataError


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything the pieces gave.

    Args:
        folder: The preparation in the making.
        failed: Where the findings go when it fails.
        key: Its name.
        sources: What was read.
        digests: SHA-256 of each source.
        settings: What it was prepared with.
        pieces: The pieces.
        outcomes: Their outcomes, in the same order.
    """

    folder: Path
    failed: Path
    key: str
    sources: tuple[Source, ...]
    digests: tuple[str, ...]
    settings: Settings
    pieces: tuple[Piece, ...]
    outcomes: tuple[Outcome, ...]


def collect(given: Collected, tell: Callable[[str, float | None], None]) -> Manifest:
    """Deduplicate, split and count; write everything but the shards.

    Raises:
        DataError: There are errors and they are not to be rejected, or nothing is left to train on.
    """
    tell("splitting", None)
    shards = given.settings.folder
    tally = _merge_tallies(given.outcomes)
    join_findings(shards, given.folder / "findings.jsonl", tally)
    join_parts(shards, "rejected", given.folder / "rejected.jsonl")
    _stop_on_errors(given, tally)
    keys = np.concatenate([_load_keys(shards, piece) for piece in given.pieces] or [_no_keys()])
    addresses = _addresses(given.outcomes)
    origin = np.repeat(
        [SPLITS.index(piece.source.split) for piece in given.pieces],
        [outcome.kept for outcome in given.outcomes],
    ).astype(np.int8)
    kept, duplicates = _drop_duplicates(keys, origin)
    sides = _sides(given, keys, origin)
    sides[~kept] = -1
    store = ShardStore(shards, [source.name for source in given.sources], {})
    _write_duplicates(given.folder, store, addresses, duplicates)
    splits = {}
    for side, name in enumerate(SPLITS):
        chosen = np.flatnonzero(sides == side)
        np.save(given.folder / f"{name}.npy", addresses[chosen])
        splits[name] = _facts(store, addresses[chosen], keys[chosen])
    _stop_when_empty(given, splits)
    manifest = _manifest(given, tally, splits, len(duplicates))
    manifest.save(given.folder)
    return manifest


def _merge_tallies(outcomes: Iterable[Outcome]) -> Tally:
    tally = Tally()
    for outcome in outcomes:
        tally.merge(outcome.tally)
    return tally


def _stop_on_errors(given: Collected, tally: Tally) -> None:
    config = given.settings.config
    errors = [code for code in tally.counts if RULES[code].severity == "error"]
    if config.on_error == "reject":
        # Leaving out long conversations is a choice of its own: overlength=drop.
        errors = [code for code in errors if code == "PHI3-D021"]
    if not errors:
        return
    given.failed.mkdir(parents=True, exist_ok=True)
    for name in ("findings.jsonl", "rejected.jsonl"):
        shutil.copy(given.folder / name, given.failed / name)
    raise tally.error(errors, given.failed / "findings.jsonl")


def _load_keys(shards: Path, piece: Piece) -> Keys:
    keys: Keys = np.load(shards / f"{piece.number:06d}.keys.npy")
    return keys


def _no_keys() -> Keys:
    return np.zeros((0, 4), np.uint64)


def _addresses(outcomes: Iterable[Outcome]) -> Rows:
    parts = [
        (np.uint64(outcome.number) << np.uint64(32)) + np.arange(outcome.kept, dtype=np.uint64)
        for outcome in outcomes
    ]
    return np.concatenate(parts or [np.zeros(0, np.uint64)])


def _drop_duplicates(
    keys: Keys, origin: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.bool_], list[tuple[int, int]]]:
    """Keep the first of equal rows of one origin; returns pairs (row, the first)."""
    tagged = keys[:, 0] ^ origin.astype(np.uint64)
    _, first, group = np.unique(tagged, return_index=True, return_inverse=True)
    leader = first[group]
    repeated = np.flatnonzero(leader != np.arange(len(keys)))
    kept = np.ones(len(keys), np.bool_)
    kept[repeated] = False
    return kept, [(int(row), int(leader[row])) for row in repeated]


def _sides(given: Collected, keys: Keys, origin: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    config = given.settings.config
    brought = {source.split for source in given.sources}
    validation = 0.0 if "validation" in brought else config.validation_split
    test = 0.0 if "test" in brought else config.test_split
    own = np.flatnonzero(origin == TRAIN)
    split = split_by_hash(keys[own], validation=validation, test=test)
    split, _ = fill_empty(keys[own], split, {VALIDATION: validation, TEST: test})
    sides = origin.copy()
    sides[own] = split
    return sides


def _write_duplicates(
    folder: Path, store: ShardStore, addresses: Rows, pairs: Iterable[tuple[int, int]]
) -> None:
    with (folder / "duplicates.jsonl").open("w", encoding="utf-8") as out:
        for row, first in pairs:
            places = [store.example(int(addresses[number])).place for number in (row, first)]
            facts = {"place": places[0], "same_as": places[1], "kind": "exact"}
            out.write(json.dumps(facts, ensure_ascii=False) + "\n")


def _facts(store: ShardStore, addresses: Rows, keys: Keys) -> SplitFacts:
    tokens = supervised = 0
    for address in addresses:
        example = store.example(int(address))
        tokens += len(example.input_ids)
        supervised += int(example.supervised.sum())
    return SplitFacts(len(addresses), tokens, supervised, digest_keys(keys))


def _stop_when_empty(given: Collected, splits: dict[str, SplitFacts]) -> None:
    if not splits["train"].rows:
        raise DataError(
            "PHI3-D040",
            "no row is left to train on",
            where=", ".join(source.name for source in given.sources if source.split == "train"),
            fix="give more rows, or mend the rejected ones",
        )


def _manifest(
    given: Collected, tally: Tally, splits: dict[str, SplitFacts], duplicates: int
) -> Manifest:
    rows_in = [0] * len(given.sources)
    for piece, outcome in zip(given.pieces, given.outcomes, strict=True):
        rows_in[piece.source_number] += outcome.rows_in
    return Manifest(
        key=given.key,
        sha256=digest_text(*(splits[name].sha256 for name in SPLITS)),
        template_sha256=given.settings.template.template_sha256,
        tokenizer_sha256=given.settings.template.sha256,
        max_length=given.settings.max_length,
        counts=Counts(
            rows_in=sum(rows_in),
            kept=sum(split.rows for split in splits.values()),
            rejected=sum(outcome.rejected for outcome in given.outcomes),
            duplicates=duplicates,
        ),
        sources=tuple(
            SourceFacts(
                name=source.name,
                split=source.split,
                format="chat",
                taken="messages: role, content",
                rows=rows,
                size_bytes=source.path.stat().st_size,
                sha256=digest,
                weight=source.weight,
            )
            for source, digest, rows in zip(given.sources, given.digests, rows_in, strict=True)
        ),
        splits=splits,
        codes=dict(tally.by_frequency()),
        config=given.settings.config.model_dump(),
    )

"""What only all rows together can tell: duplicates, leaks, and sides."""

import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.collected import Collected, Decided, Table
from mlflow_phi3.data.findings import Finding, Tally, join_findings, join_parts, show
from mlflow_phi3.data.labels import find_alike, find_untaught
from mlflow_phi3.data.messages import to_dicts
from mlflow_phi3.data.relations import (
    LEAK_CODES,
    Flags,
    Ints,
    Pair,
    find_exact,
    find_leaks,
    find_near,
    group_rows,
)
from mlflow_phi3.data.shards import ShardStore
from mlflow_phi3.data.similarity import BINS, count_bands, near_pairs
from mlflow_phi3.data.split import (
    TEST,
    TRAIN,
    VALIDATION,
    Sides,
    choose_sides,
    fill_empty,
    is_far,
    place_by_hash,
    place_by_label,
)
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.data.verdict import stop_on_errors
from mlflow_phi3.data.weights import Weights, count_shows, is_shown, weigh_rows

_AZURE_BYTES = 512 << 20
_AZURE_ROWS = 50
_OUT = np.int8(-1)
Tell = Callable[[str, float | None], None]


def decide(given: Collected, tell: Tell) -> Decided:
    """Find duplicates and leaks, and split; writes findings, rejected rows and duplicates.

    Raises:
        DataError: There are errors and they are not to be rejected, or nothing is left to train on.
    """
    tally = Tally()
    for outcome in given.outcomes:
        tally.merge(outcome.tally)
    table = _tabulate(given)
    decided = Decided(table, tally, table.origin.copy())
    tell("finding duplicates and leaks", None)
    pairs = _near(given, len(table.keys))
    kept = _drop_duplicates(given, decided, pairs)
    weights = _weigh(given, decided)
    _check_leaks(given, decided, pairs, kept)
    shown = is_shown(weights, table.keys)
    decided.left_out = int((kept & ~shown).sum())
    kept &= shown
    late = [_leak_finding(table, pair) for pair in decided.leaks]
    late += _check_taught(given, decided, kept)
    late += _find_alike(decided.table, kept)
    tell("splitting", None)
    late += _split(given, decided, pairs, kept, weights)
    late += _check_limits(given, decided)
    with (given.settings.folder / "all.findings").open("w", encoding="utf-8") as out:
        for finding in late:
            tally.add(finding)
            out.write(finding.to_json() + "\n")
    join_findings(given.settings.folder, given.folder / "findings.jsonl", tally)
    _reject(given, decided)
    join_parts(given.settings.folder, "rejected", given.folder / "rejected.jsonl")
    _write_duplicates(given, decided)
    stop_on_errors(given, decided)
    return decided


def _tabulate(given: Collected) -> Table:
    folder = given.settings.folder
    kept = [outcome.kept for outcome in given.outcomes]
    keys = [np.load(folder / f"{piece.number:06d}.keys.npy") for piece in given.pieces]
    names = sorted({label for outcome in given.outcomes for label in outcome.labels if label})
    number = {label: place for place, label in enumerate(names)}
    labels = [
        number.get(label or "", -1)
        for outcome in given.outcomes
        for label in outcome.labels or [None] * outcome.kept
    ]
    starts = [np.uint64(piece.number << 32) for piece in given.pieces]
    addresses = [
        start + np.arange(rows, dtype=np.uint64) for start, rows in zip(starts, kept, strict=True)
    ]
    origin = [SPLITS.index(piece.source.split) for piece in given.pieces]
    return Table(
        store=ShardStore(folder, [planned.source.name for planned in given.planned], {}),
        addresses=np.concatenate([*addresses, np.zeros(0, np.uint64)]),
        keys=np.concatenate([*keys, np.zeros((0, 4), np.uint64)]),
        origin=np.repeat(origin, kept).astype(np.int8),
        source=np.repeat([piece.source_number for piece in given.pieces], kept).astype(np.int64),
        label=np.array(labels, np.int64),
        names=tuple(names),
    )


def _near(given: Collected, rows: int) -> Ints:
    """Similar rows of all pieces; one band's keys are in memory at a time."""
    if not given.settings.looks_for_near or rows < 2:
        return np.zeros((0, 2), np.int64)
    folder = given.settings.folder
    whole = folder / "all.sketch"
    with whole.open("wb") as out:
        for piece in given.pieces:
            np.load(folder / f"{piece.number:06d}.sketch.npy").tofile(out)
    sketches = np.memmap(whole, np.uint32, mode="r", shape=(rows, 2, BINS))

    def band(number: int) -> npt.NDArray[np.uint64]:
        parts = [folder / f"{piece.number:06d}.bands.npy" for piece in given.pieces]
        return np.concatenate([np.load(part, mmap_mode="r")[number] for part in parts])

    similarity = given.settings.config.near_duplicate_similarity
    found = near_pairs(sketches, map(band, range(count_bands(similarity))), similarity)
    for pattern in ("all.sketch", "*.sketch.npy", "*.bands.npy"):
        for file in folder.glob(pattern):
            file.unlink()
    return found


def _drop_duplicates(given: Collected, decided: Decided, pairs: Ints) -> Flags:
    config, table = given.settings.config, decided.table
    dropped = np.zeros(len(table.keys), np.bool_)
    if config.clean_duplicates:
        decided.duplicates += find_exact(table.keys, table.origin)
        dropped[[pair.row for pair in decided.duplicates]] = True
    if config.clean_near_duplicates:
        # Exact copies are like each other too, and not this switch's.
        equal = (table.keys[pairs[:, 0], :2] == table.keys[pairs[:, 1], :2]).all(axis=1)
        decided.duplicates += find_near(pairs[~equal], table.origin, dropped)
    return ~dropped


def _check_leaks(given: Collected, decided: Decided, pairs: Ints, kept: Flags) -> None:
    table = decided.table
    decided.leaks = find_leaks(table.keys, table.origin, pairs, kept)
    if given.settings.config.leaks == "drop":
        decided.duplicates += decided.leaks
        kept[[pair.row for pair in decided.leaks]] = False


def _weigh(given: Collected, decided: Decided) -> Weights:
    weights = np.array([planned.source.weight for planned in given.planned])
    return weigh_rows(weights[decided.table.source], decided.duplicates)


def _check_taught(given: Collected, decided: Decided, kept: Flags) -> list[Finding]:
    """Labels of validation or test files that no training row has."""
    if not find_task(given.settings.config.task).classifies:
        return []
    table = decided.table
    rows, found = _untaught(table, np.where(kept, table.origin, _OUT), "PHI3-D048")
    if given.settings.config.on_error == "reject":
        decided.rejected = rows.tolist()
        kept[rows] = False
        decided.table = table.without(table.label[rows])
    return found


def _untaught(table: Table, sides: Sides, code: str) -> tuple[Ints, list[Finding]]:
    """Rows whose label no training row has, and a finding for each such label."""
    rows = find_untaught(np.where(sides == _OUT, -1, table.label), sides == TRAIN)
    numbers, first, counts = np.unique(table.label[rows], return_index=True, return_counts=True)
    found = []
    for number, at, count in zip(numbers, first, counts, strict=True):
        text = f"no row to train on is labelled {show(table.names[number])} (rows here: {count})"
        found.append(table.finding(int(rows[at]), code, text))
    return rows, found


def _find_alike(table: Table, kept: Flags) -> list[Finding]:
    """Labels that seem to be one; each is told at its first row."""
    rows = np.flatnonzero(kept & (table.label >= 0))
    numbers, first, counts = np.unique(table.label[rows], return_index=True, return_counts=True)
    names = [table.names[number] for number in numbers]
    return [
        table.finding(
            int(rows[first[at]]),
            "PHI3-D049",
            f"the label {show(names[at])} (rows: {counts[at]}) stands beside {show(names[other])} "
            f"(rows: {counts[other]})",
            related=table.place(int(rows[first[other]])),
        )
        for at, other in find_alike(names)
    ]


def _split(
    given: Collected, decided: Decided, pairs: Ints, kept: Flags, weights: Weights
) -> list[Finding]:
    config, table, sides = given.settings.config, decided.table, decided.sides
    brought = {planned.source.split for planned in given.planned}
    wanted = {
        VALIDATION: 0.0 if "validation" in brought else config.validation_split,
        TEST: 0.0 if "test" in brought else config.test_split,
    }
    own = np.flatnonzero(kept & (table.origin == TRAIN))
    groups = group_rows(table.keys[own], _within(pairs, own))
    labelled = bool(table.names)
    shares = place_by_hash(table.keys[own])
    if labelled:
        leaders = np.unique(groups)
        shares[leaders] = place_by_label(
            table.label[own][leaders],
            table.source[own][leaders],
            table.names,
            first=(wanted[TEST] + 1 - wanted[VALIDATION]) / 2,
        )
    shares = shares[groups]
    chosen = choose_sides(shares, validation=wanted[VALIDATION], test=wanted[TEST])
    chosen, moved = fill_empty(shares, groups, chosen, wanted)
    sides[:] = np.where(kept, table.origin, _OUT)
    sides[own] = chosen
    for side, name in enumerate(SPLITS):
        rows = np.flatnonzero(sides == side)
        if side == TRAIN:
            rows = np.repeat(rows, count_shows(weights[rows], table.keys[rows]))
        decided.splits[name] = rows
        np.save(given.folder / f"{name}.npy", table.addresses[rows])
    found = [
        table.finding(int(own[row]), "PHI3-D041", f"without this row, {split} would be empty")
        for row, split in ((row, SPLITS[chosen[row]]) for row in moved)
    ]
    return [*found, *_check_split(given, decided, wanted)]


def _check_split(given: Collected, decided: Decided, wanted: Mapping[int, float]) -> list[Finding]:
    """Sides that are far from their shares, and labels of which the split left none to train on."""
    table = decided.table
    sides = np.where(table.origin == TRAIN, decided.sides, _OUT)
    found = []
    for side, share in wanted.items():
        rows, of = (int(np.count_nonzero(some)) for some in (sides == side, sides != _OUT))
        if is_far(rows, of, share):
            text = f"{SPLITS[side]} has {rows} of {of} rows; asked were {share:.0%}"
            found.append(Finding("PHI3-D044", given.names("train"), 0, text))
    if find_task(given.settings.config.task).classifies:
        found += _untaught(table, sides, "PHI3-D039")[1]
    return found


def _within(pairs: Ints, own: Ints) -> Iterator[tuple[int, int]]:
    """Those pairs of which both rows are ours, by their places among ours."""
    inside = np.isin(pairs, own).all(axis=1)
    yield from map(tuple, np.searchsorted(own, pairs[inside]).tolist())


def _check_limits(given: Collected, decided: Decided) -> list[Finding]:
    found = []
    for planned in given.planned:
        size = planned.source.size_bytes
        if size > _AZURE_BYTES:
            found.append(
                Finding("PHI3-D037", planned.source.name, 0, f"the file has {size:,} bytes")
            )
    rows = np.count_nonzero(decided.sides == TRAIN)
    if rows < _AZURE_ROWS:
        name = given.names("train")
        found.append(Finding("PHI3-D038", name, 0, f"rows to train on: {rows}"))
    return found


def _leak_finding(table: Table, pair: Pair) -> Finding:
    other = table.place(pair.other)
    words = {"exact": "is also", "prompt": "asks the same as", "near": "is almost"}
    text = f"{words[pair.kind]} {other}"
    return table.finding(pair.row, LEAK_CODES[pair.kind], text, related=other)


def _reject(given: Collected, decided: Decided) -> None:
    """Write the rows that all rows together rejected, as they were to be learnt."""
    table = decided.table
    with (given.settings.folder / "all.rejected").open("w", encoding="utf-8") as out:
        for row in decided.rejected:
            talk = table.store.conversation(int(table.addresses[row]))
            facts = {
                "place": talk.place,
                "codes": ["PHI3-D048"],
                "reasons": [f"{show(talk.label)} labels no row to train on"],
                "row": json.dumps(
                    {**talk.extra, "messages": to_dicts(talk.messages), "label": talk.label}
                ),
            }
            out.write(json.dumps(facts) + "\n")


def _write_duplicates(given: Collected, decided: Decided) -> None:
    with (given.folder / "duplicates.jsonl").open("w", encoding="utf-8") as out:
        for pair in decided.duplicates:
            place, same_as = (decided.table.place(at) for at in (pair.row, pair.other))
            facts = {"place": place, "same_as": same_as, "kind": pair.kind}
            out.write(json.dumps(facts, ensure_ascii=False) + "\n")

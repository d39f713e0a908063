"""What ``train_data`` and its kin name: files, folders, hub datasets, the demo."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mlflow_phi3.config.parse import nearest
from mlflow_phi3.config.prepare import SPLITS, PrepareConfig
from mlflow_phi3.data import jsonl, jsonscan, tables
from mlflow_phi3.data.findings import printable
from mlflow_phi3.data.formats import Reader, detect
from mlflow_phi3.data.hub import WEIGHT, is_hub_id
from mlflow_phi3.data.jsonl import RawRow, Span
from mlflow_phi3.data.sample import sample_path
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.errors import DataError

DEMO = "demo"
Kind = Literal["jsonl", "json", "json-line", "csv", "parquet", "arrow"]
_SNIFFED_ROWS = 100
_POINTER = b"version https://git-lfs.github.com/spec/"
# Likeness of a mistyped file name; all have an ending in common, and "trian.jsonl" has 91.
_ALIKE = 85
_OUR_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
_TABLES = ("csv", "parquet", "arrow")
_KINDS: dict[str, Kind] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True, slots=True)
class Source:
    """One named source.

    Args:
        files: Where it lies; several for a dataset of ``datasets``.
        name: As errors and reports cite it.
        split: The split it was given for: ``train``, ``validation`` or ``test``.
        kind: How its files are written.
        weight: How often each row is shown; below 1, the share of rows that are.
        place: Where it lies, as it was given.
    """

    files: tuple[Path, ...]
    name: str
    split: str
    kind: Kind
    weight: float = 1.0
    place: str = ""

    @property
    def size_bytes(self) -> int:
        """Size of its files."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True, slots=True)
class Planned:
    """A source, cut into pieces.

    Args:
        source: The source.
        reader: How its rows become messages.
        spans: Its pieces, each with its file.
        sha256: Digest of its bytes.
    """

    source: Source
    reader: Reader
    spans: tuple[tuple[Path, Span], ...]
    sha256: str


def parse_sources(text: str, split: str) -> list[Source]:
    """Sources out of a parameter's text: names with a comma between, each with ``:weight`` or not.

    Raises:
        DataError: Something named is neither a file, a folder of ``datasets`` nor on the hub, has a
            name that cannot be written, or is Git LFS's pointer to a file.
    """
    sources = []
    parts = [part for part in map(str.strip, text.split(",")) if part]
    if not parts and (text or split == SPLITS[0]):
        raise _absent(text, split)
    for part in parts:
        weight = WEIGHT.search(part)
        named = part[: weight.start()] if weight else part
        share = float(weight[1]) if weight else 1.0
        path = sample_path() if named == DEMO else _to_path(named, split)
        if path.is_file():
            _refuse_pointer(path)
            sources.append(Source((path,), path.name, split, _kind_of(path), share, named))
            continue
        files = _dataset_files(named, path, split)
        name = path.name if path.exists() else named
        sources.append(Source(files, name, split, "arrow", share, named))
    return sources


def tell_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, those of one name that lie in different places by their places."""
    places: dict[str, set[str]] = {}
    for source in sources:
        places.setdefault(source.name, set()).add(source.place)
    return [
        replace(source, name=source.place) if len(places[source.name]) > 1 else source
        for source in sources
    ]


def plan_source(source: Source, config: PrepareConfig) -> Planned:
    """Hash a source, cut it into pieces and find out what its rows look like.

    Raises:
        DataError: It cannot be read, holds no row, or its rows fit no format.
    """
    digests: list[str] = []
    spans: list[tuple[Path, Span]] = []
    line = 1
    for file in source.files:
        found, digest = _plan_file(source.kind, file, line)
        digests.append(digest)
        spans += [(file, span) for span in found]
        if source.kind == "arrow":
            line += tables.count_arrow(file)
    first = itertools.chain.from_iterable(
        read_span(source.kind, file, span) for file, span in spans
    )
    task = find_task(config.task)
    read = [task.read(row.value) for row in itertools.islice(first, _SNIFFED_ROWS)]
    if not read:
        raise DataError(
            "PHI3-D040", "there is no row in it", where=source.name, fix="give data with rows"
        )
    values = [value for value, problem in read if problem is None]
    reader = detect(
        values,
        name=source.name,
        wanted=config.format,
        # In JSON a text is meant, and null says that there is none.
        missing_is_empty=config.clean_missing_values and source.kind in _TABLES,
    )
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    sha256 = digests[0] if len(digests) == 1 else joined
    return Planned(source, reader, tuple(spans), sha256)


def read_span(kind: Kind, file: Path, span: Span) -> Iterator[RawRow]:
    """The rows of a piece."""
    readers: Mapping[Kind, Callable[[Path, Span], Iterator[RawRow]]] = {
        "jsonl": jsonl.read_rows,
        "json": jsonscan.read_objects,
        "json-line": partial(jsonscan.read_objects, by_line=False),
        "csv": tables.read_csv,
        "parquet": tables.read_parquet,
        "arrow": tables.read_arrow,
    }
    return readers[kind](file, span)


def _plan_file(kind: Kind, file: Path, line: int) -> tuple[Sequence[Span], str]:
    if kind == "jsonl":
        return jsonl.plan_spans(file)
    digest = tables.hash_file(file)
    if kind in ("json", "json-line"):
        whole = Span(0, file.stat().st_size, 1)
        return _group(jsonscan.find_objects(file, whole, by_line=kind == "json")), digest
    if kind == "csv":
        return tables.plan_csv(file), digest
    if kind == "parquet":
        return tables.plan_parquet(file), digest
    return tables.plan_arrow(file, first_line=line), digest


def _group(objects: Iterator[Span]) -> list[Span]:
    """Join neighbouring values to pieces of some megabytes."""
    pieces: list[Span] = []
    for found in objects:
        if pieces and found.end - pieces[-1].start <= jsonl.CHUNK_BYTES:
            pieces[-1] = Span(pieces[-1].start, found.end, pieces[-1].line)
        else:
            pieces.append(found)
    return pieces


def _kind_of(path: Path) -> Kind:
    kind = _KINDS.get(path.suffix.lower())
    if kind is not None:
        return kind
    if not jsonscan.is_many_lined(path):
        return "jsonl"
    return "json-line" if jsonscan.is_one_line(path) else "json"


def _to_path(named: str, split: str) -> Path:
    try:
        named.encode()
        return Path(named).expanduser()
    except UnicodeEncodeError as error:
        problem, mend = f"the name {printable(named)!r} is not UTF-8", "rename it"
        raise DataError("PHI3-D030", problem, where=f"{split}_data", fix=mend) from error
    except RuntimeError as error:  # "~nobody/..."
        raise _absent(named, split) from error


def _refuse_pointer(path: Path) -> None:
    """Refuse what stands in a file's place until Git LFS fetches it.

    Raises:
        DataError: It is such a pointer.
    """
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise DataError(
                "PHI3-D001",
                "the file is Git LFS's pointer to the data",
                where=path.name,
                fix="fetch the data by `git lfs pull`",
            )


def _absent(named: str, split: str) -> DataError:
    near = _neighbour(Path(named))
    otherwise = "give a path relative to the working directory, or an absolute one"
    return DataError(
        "PHI3-D030",
        f"there is no file or folder {named!r}",
        where=f"{split}_data",
        fix=f"did you mean {near!r}?" if near else otherwise,
    )


def _neighbour(absent: Path) -> str | None:
    """What lies in the same folder under almost the same name."""
    folder = absent.parent
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    found = nearest(absent.name, names, least=_ALIKE)
    return str(folder / found) if found else None


def _dataset_files(named: str, path: Path, split: str) -> tuple[Path, ...]:
    """The Arrow files of a saved or downloaded dataset."""
    if not path.is_dir() and not is_hub_id(named):
        raise _absent(named, split)
    # Imported here: it costs a second, and most data are files.
    import datasets

    try:
        if path.is_dir():
            loaded: Any = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(named)
    except Exception as error:  # datasets raises what its many readers raise
        raise DataError(
            "PHI3-D036",
            f"no dataset can be read from {named!r}: {type(error).__name__}: {error}",
            where=f"{split}_data",
            fix="give a file, a folder written by save_to_disk, or a public dataset id",
        ) from error
    if isinstance(loaded, dict):
        loaded = _pick_split(loaded, named, split)
    if loaded._indices is not None:  # noqa: SLF001 - a selection that is not written out yet
        loaded = loaded.flatten_indices()
    return tuple(Path(file["filename"]) for file in loaded.cache_files)


def _pick_split(loaded: dict[str, Any], named: str, split: str) -> Any:
    for name in _OUR_NAMES[split]:
        if name in loaded:
            return loaded[name]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise DataError(
        "PHI3-D036",
        f"{named!r} has no {split} split, but {', '.join(loaded)}",
        where=f"{split}_data",
        fix="save the part you mean with save_to_disk and give its folder",
    )

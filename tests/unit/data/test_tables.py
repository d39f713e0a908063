import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data import tables
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.errors import DataError


def _read(path, **options):
    return [row for span in tables.plan_csv(path, **options) for row in tables.read_csv(path, span)]


def test_a_quote_within_a_field_moves_no_cut(tmp_path):
    path = tmp_path / "rows.csv"
    answers = [f"{n} begins\nand ends" for n in range(200)]
    lines = ["\ufeffprompt,completion", '5" or 6"?,The 5" screen']
    lines += [f'q{n},"{answer}"' for n, answer in enumerate(answers)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for chunk_bytes in (64, 100, 1 << 20):
        rows = _read(path, chunk_bytes=chunk_bytes)
        assert [row.value["completion"] for row in rows] == ['The 5" screen', *answers]
        assert [row.line for row in rows] == [2, *range(3, 403, 2)]


@pytest.mark.parametrize(
    ("body", "told", "raw"),
    [
        (
            'q1,"an answer\nq2,a2\nq3,a3\n',
            "unexpected end of data",
            'q1,"an answer\nq2,a2\nq3,a3\n',
        ),
        ('"say "hi" now",x\n', "',' expected after '\"'", '"say "hi" now",x\n'),
    ],
)
def test_a_quote_in_the_wrong_place_loses_nothing_unsaid(body, told, raw, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,completion\n{body}", encoding="utf-8")
    (row,) = _read(path)
    assert told in row.problem.text
    assert (row.line, row.raw) == (2, raw)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_record_ends_as_its_file_ends_lines(end, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(end.join(["prompt;completion", "a, b;c", "d;e", ""]).encode())
    assert [row.value for row in _read(path, chunk_bytes=1)] == [
        {"prompt": "a, b", "completion": "c"},
        {"prompt": "d", "completion": "e"},
    ]


def test_the_byte_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,completion\n" + "😀 ".encode() + b"caf\xe9,x\n")
    (row,) = _read(path)
    assert row.problem.text == "byte 0xe9 in 'prompt' is not UTF-8"


def test_a_row_that_does_not_fit_the_header_is_told(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na\n", encoding="utf-8")
    (row,) = _read(path)
    assert row.problem.text == "found fields: 1; expected, as in the header: 2"


def test_a_tab_divides_what_is_named_so(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("question\tanswer\tnote, a, b, c\nx\ty\tz\n", encoding="utf-8")
    assert _read(path)[0].value == {"question": "x", "answer": "y", "note, a, b, c": "z"}


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "^"])
def test_the_line_by_which_excel_names_the_delimiter_is_no_row(delimiter, tmp_path):
    path = tmp_path / "rows.csv"
    cells = [["prompt", '"completion, short"'], ["a", '"b, c; d"']]
    lines = [f"\ufeffsep={delimiter}", *map(delimiter.join, cells), ""]
    path.write_bytes("\r\n".join(lines).encode())
    for chunk_bytes in (1, 1 << 20):
        (row,) = _read(path, chunk_bytes=chunk_bytes)
        assert (row.line, row.value) == (3, {"prompt": "a", "completion, short": "b, c; d"})


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion, prompt,,\na,b,c,,\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv.*two columns are named 'prompt'"):
        tables.plan_csv(path)


def test_a_large_row_group_makes_several_pieces(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    table = pa.table({"id": range(20_000), "text": [f"text {n}" for n in range(20_000)]})
    pq.write_table(table, path, row_group_size=12_000)
    assert len(tables.plan_parquet(path)) == 2
    monkeypatch.setattr(tables, "_SHARED_BYTES", 50_000)
    spans = tables.plan_parquet(path)
    assert len(spans) > 4
    rows = [row for span in spans for row in tables.read_parquet(path, span)]
    assert [row.value["id"] for row in rows] == [*range(20_000)]
    assert [row.line for row in rows] == [*range(1, 20_001)]


@pytest.fixture
def broken(tmp_path):
    """A Parquet file whose footer and first row group are sound, and the second is not."""
    path = tmp_path / "rows.parquet"
    rows = [f"row {n} {n * n}" for n in range(8000)]
    pq.write_table(pa.table({"prompt": rows, "completion": rows}), path, row_group_size=4000)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start + 1000 : start + 1400] = bytes(400)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_row_group_is_told_by_its_file(workers, broken, plain_tokenizer, tmp_path):
    config = PrepareConfig(train_data=str(broken), on_error="reject", prepare_workers=workers)
    with pytest.raises(DataError, match=r"PHI3-D034 rows\.parquet: not a table") as caught:
        prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    assert caught.value.where == "rows.parquet"
    assert not [*(tmp_path / "cache").iterdir()]


def test_an_arrow_file_that_is_no_stream_is_told(tmp_path):
    path = tmp_path / "rows.arrow"
    pa.feather.write_feather(pa.table({"prompt": ["a"]}), str(path))
    with pytest.raises(DataError, match=r"PHI3-D034 rows\.arrow: not a table"):
        tables.plan_arrow(path)
    schema = pa.schema([("prompt", pa.string())])
    with pa.ipc.new_stream(str(path), schema) as stream:
        stream.write(pa.record_batch([["a"] * 5000], schema=schema))
        stream.write(pa.record_batch([["b"] * 5000], schema=schema))
    spans = tables.plan_arrow(path)
    rows = [row for span in spans for row in tables.read_arrow(path, span)]
    assert [row.value["prompt"] for row in rows] == ["a"] * 5000 + ["b"] * 5000
    path.write_bytes(path.read_bytes()[:-30_000])
    with pytest.raises(DataError, match="PHI3-D034"):
        json.dumps([row.raw for row in tables.read_arrow(path, spans[1])])


@pytest.fixture(params=["parquet", "arrow"])
def save(request, tmp_path):
    def save(table):
        path = tmp_path / f"rows.{request.param}"
        if request.param == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table)
        return path

    return save


def _unreadable(cells, at):
    """Text of which one cell is not UTF-8."""
    data = [b"caf\xe9" if n == at else cell.encode() for n, cell in enumerate(cells)]
    whole = pa.array(data, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(whole), whole.buffers())


def test_cells_that_python_cannot_read_are_problems_of_their_rows(save, plain_tokenizer, tmp_path):
    cells = [f"text number {n} is {n * n}" for n in range(60)]
    late = [4_000_000_000_000 if n % 7 == 0 else n for n in range(60)]
    table = pa.table(
        {
            "text": _unreadable(cells, 6),
            "label": ["a", "b"] * 30,
            "when": pa.array(late, pa.timestamp("s")),
            "note": _unreadable(cells, 3),
        }
    )
    settings = {"task": "text-classification", "clean_near_duplicates": False}
    config = PrepareConfig(train_data=str(save(table)), **settings)
    with pytest.raises(
        DataError, match=r"PHI3-D031 rows\.\w+:7: column 'text' cannot be read:.*0xe9"
    ):
        prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    config = config.model_copy(update={"on_error": "reject"})
    data = prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    assert (data.manifest.counts.kept, data.manifest.counts.rejected) == (59, 1)
    (rejected,) = map(json.loads, (data.folder / "rejected.jsonl").read_text().splitlines())
    assert (rejected["place"].partition(":")[2], rejected["codes"]) == ("7", ["PHI3-D031"])


def test_two_columns_of_one_name_are_refused_in_every_table(save):
    path = save(pa.table([["a"], ["b"], ["c"]], ["text", "label", "text"]))
    plan = tables.plan_parquet if path.suffix == ".parquet" else tables.plan_arrow
    with pytest.raises(DataError, match=r"rows\.\w+: .*two columns are named 'text'"):
        plan(path)

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.errors import Phi3Error

QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # to shrink would take minutes
)
text = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["<|end|>", "<|user|>\nhi", "\ud800", "\x00\x07", "\U0010fffe", "ा", ""]),
)
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text)
value = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", None]),
        "content": text | value,
    }
)
chat = st.fixed_dictionaries({"messages": st.lists(message, max_size=5)})
good = st.builds(
    lambda question, answer: {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    },
    st.text(min_size=1),
    st.text(min_size=1),
)
written = st.one_of(good, chat, value).map(lambda row: json.dumps(row).encode())
deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b"1" * 5000])
encodings = st.tuples(text, st.sampled_from(["utf-16", "latin-1", "shift-jis", "utf-8"])).map(
    lambda pair: pair[0].encode(pair[1], errors="ignore")
)
line = st.one_of(written, written, written, st.binary(max_size=60), deep, encodings)


def check(data, name, tokenizer, **settings):
    """Prepare bytes; only our errors come out, and the rows add up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        config = PrepareConfig(train_data=str(path), on_error="reject", **settings)
        try:
            found = prepare(config, tokenizer, folder=Path(folder, "cache"), context_length=64)
        except Phi3Error:
            return None
        counts = found.manifest.counts
        assert counts.adds_up
        rows = sum(len(found.conversations(split)) for split in found.manifest.splits)
        rejected = (found.folder / "rejected.jsonl").read_text().splitlines()
        duplicates = (found.folder / "duplicates.jsonl").read_text().splitlines()
        assert (rows, len(rejected), len(duplicates)) == (
            counts.kept,
            counts.rejected,
            counts.duplicates,
        )
        for split in found.manifest.splits:
            assert all(example.supervised.any() for example in found.examples(split))
        return counts


@QUICK
@given(lines=st.lists(line, min_size=1, max_size=8))
def test_lines_of_anything(lines, plain_tokenizer):
    data = b"\n".join(lines)
    counts = check(data, "rows.jsonl", plain_tokenizer, overlength="drop")
    if counts is not None and not data.lstrip(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        blank = b" \t\r\x0b\x0c"
        stripped = [part.removeprefix(b"\xef\xbb\xbf").strip(blank) for part in data.split(b"\n")]
        assert counts.rows_in == sum(1 for part in stripped if part)


@QUICK
@given(rows=st.lists(written | st.binary(max_size=20), min_size=1, max_size=6))
def test_arrays_of_anything(rows, plain_tokenizer):
    check(b"[" + b",\n".join(rows) + b"]", "rows.json", plain_tokenizer, overlength="truncate")


@QUICK
@given(body=st.binary(max_size=200), quoted=st.lists(text, max_size=4))
def test_tables_of_anything(body, quoted, plain_tokenizer):
    cells = ",".join(f'"{cell}"' for cell in quoted).encode(errors="ignore")
    data = b"question,answer\nWhy?,Because.\n" + cells + b"\n" + body
    check(data, "rows.csv", plain_tokenizer, overlength="drop")
    check(body, "rows.parquet", plain_tokenizer)


def test_a_huge_line_is_told_and_the_rest_is_read(plain_tokenizer, tmp_path):
    row = json.dumps(
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    )
    other = row.replace('"q"', '"r"')
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row}\n{'x' * (17 << 20)}\n{other}\n", encoding="utf-8")
    config = PrepareConfig(train_data=str(path), on_error="reject", prepare_workers=1)
    found = prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    assert (found.manifest.counts.rows_in, found.manifest.counts.kept) == (3, 2)
    finding = json.loads((found.folder / "findings.jsonl").read_text().splitlines()[0])
    assert (finding["code"], finding["line"]) == ("PHI3-D005", 2)
    assert "17,825,792 bytes" in finding["problem"] or "17,825,793 bytes" in finding["problem"]


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        (b"\xff\xfe", r"UTF-16.*Fix: save it as UTF-8"),
        (b"\xfe\xff", r"UTF-16.*Fix: save it as UTF-8"),
        (b"\x1f\x8b\x08", r"packed by gzip.*Fix: unpack it"),
        (b"PK\x03\x04", r"ZIP archive.*Fix: unpack it"),
        (b"BZh91AY", r"packed by bzip2.*Fix: unpack it"),
        (b"\xfd7zXZ\x00", r"packed by xz.*Fix: unpack it"),
        (b"(\xb5/\xfd", r"packed by Zstandard.*Fix: unpack it"),
        (b"PAR1", r"a Parquet file.*Fix: let its name end in \.parquet"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_what_is_no_text_is_named(name, mark, told, plain_tokenizer, tmp_path):
    path = tmp_path / name
    path.write_bytes(mark + b"x\x00")
    with pytest.raises(Phi3Error, match=told):
        prepare(PrepareConfig(train_data=str(path)), plain_tokenizer, folder=tmp_path / "cache")

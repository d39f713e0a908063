import re

import pytest

from mlflow_phi3.data.jsonl import numbered_lines, parse_row, read_lines, refuse_foreign
from mlflow_phi3.errors import DataError

SEPARATORS = "\u2028\u2029\u0085\x1c\x0b\x0c"
"""Where str.splitlines cuts, and JSON does not."""


def test_only_a_line_feed_ends_a_line():
    text = f'{{"a": "b{SEPARATORS}c"}}\r\n \n\n{{}}\n'
    assert list(numbered_lines(text, "f")) == [
        ("f:1", f'{{"a": "b{SEPARATORS}c"}}\r'),
        ("f:4", "{}"),
    ]
    assert list(numbered_lines("", "f")) == []


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "calls.jsonl").write_bytes('{"at": "é"}'.encode("latin-1"))
    for name, why in (("none", "No such file"), ("calls", "not UTF-8: .* byte 0xe9")):
        with pytest.raises(DataError, match=f"PHI3-D093 .*{name}.jsonl.*{why}.*check --log"):
            read_lines(tmp_path / f"{name}.jsonl", code="PHI3-D093", fix="check --log")


@pytest.mark.parametrize(
    "row", ['{"messages": [], "id": 1, "messages": [1]}', '{"messages": [{"role": 1, "role": 1}]}']
)
def test_a_key_that_stands_twice_is_told(row):
    found = parse_row(3, row.encode())
    assert found.problem.code == "PHI3-D028"
    assert re.search("the key '(messages|role)' stands twice", found.problem.text)
    assert found.raw == row
    assert parse_row(4, b'{"a": {"a": [{"a": 1}, {"a": 1}]}}').value == {"a": {"a": [{"a": 1}] * 2}}


@pytest.mark.parametrize(
    "head", [b"PK,text", b"PATIENT_ID,text", b"PAR,text", b"BZ,text", b"BZh,text", b"(\xc2\xb5)"]
)
def test_a_header_that_begins_like_a_packed_file_is_text(head):
    refuse_foreign(head, "rows.csv")


def test_an_empty_archive_is_one():
    with pytest.raises(DataError, match="50 4b 05 06: it is a ZIP"):
        refuse_foreign(b"PK\x05\x06" + bytes(18), "rows.csv")

import re

import pytest

from mlflow_phi3.data.jsonl import numbered_lines, parse_row

SEPARATORS = "\u2028\u2029\u0085\x1c\x0b\x0c"
"""Where str.splitlines cuts, and JSON does not."""


def test_only_a_line_feed_ends_a_line():
    text = f'{{"a": "b{SEPARATORS}c"}}\r\n \n\n{{}}\n'
    assert list(numbered_lines(text, "f")) == [
        ("f:1", f'{{"a": "b{SEPARATORS}c"}}\r'),
        ("f:4", "{}"),
    ]
    assert list(numbered_lines("", "f")) == []


@pytest.mark.parametrize(
    "row", ['{"messages": [], "id": 1, "messages": [1]}', '{"messages": [{"role": 1, "role": 1}]}']
)
def test_a_key_that_stands_twice_is_told(row):
    found = parse_row(3, row.encode())
    assert found.problem.code == "PHI3-D028"
    assert re.search("the key '(messages|role)' stands twice", found.problem.text)
    assert found.raw == row
    assert parse_row(4, b'{"a": {"a": [{"a": 1}, {"a": 1}]}}').value == {"a": {"a": [{"a": 1}] * 2}}

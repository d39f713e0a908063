from mlflow_phi3.data.jsonl import numbered_lines

SEPARATORS = "\u2028\u2029\u0085\x1c\x0b\x0c"
"""Where str.splitlines cuts, and JSON does not."""


def test_only_a_line_feed_ends_a_line():
    text = f'{{"a": "b{SEPARATORS}c"}}\r\n \n\n{{}}\n'
    assert list(numbered_lines(text, "f")) == [
        ("f:1", f'{{"a": "b{SEPARATORS}c"}}\r'),
        ("f:4", "{}"),
    ]
    assert list(numbered_lines("", "f")) == []

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.clean import clean, steps_of
from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.pipeline import prepare

MARATHI = (
    "नमस्कार! माझा कन्सोल चालू होत नाही, काय करू?",
    "दुसऱ्या ॲपमध्ये \u2018सेटिंग्ज\u2019 उघडा — मग “खाते” निवडा।",
    "दर्\u200dया, वाऱ्या, श्री, ज्ञान, क्\u200cष आणि क्\u200dष",  # (non-)joiners
    "किंमत ₹१,४९९.५०\n\n• पहिला मुद्दा\n\t• दुसरा मुद्दा  येथे",
    "English आणि मराठी मिश्र मजकूर 👩\u200d💻",
)
DEVANAGARI = st.text(
    st.one_of(
        st.characters(min_codepoint=0x0900, max_codepoint=0x097F),
        st.sampled_from("\u200c\u200d\u200e\ufeff\r\n\t \xa0\u2028\x00\x0c\x85₹\u2018\u2019।👩"),
    ),
    max_size=40,
)


def _clean(text, **settings):
    (message,), names = clean([Message("user", text)], steps_of(PrepareConfig(**settings)))
    return message.content, names


def test_marathi_goes_through_as_it_was_written(write, chat, tokenizer, tmp_path):
    path = write([chat(text, "हो, नक्कीच.") for text in MARATHI])
    config = PrepareConfig(train_data=str(path), validation_split=0, test_split=0)
    data = prepare(config, tokenizer, folder=tmp_path / "cache")
    assert dict(data.manifest.cleaning) == {}
    said = [row.messages[0].content for row in data.conversations("train")]
    assert said == list(MARATHI)
    for example, text in zip(data.examples("train"), MARATHI, strict=True):
        start, end = (example.input_ids.tolist().index(token) for token in (32010, 32007))
        assert tokenizer.decode(example.input_ids[start + 1 : end]) == text


@pytest.mark.parametrize(
    ("written", "settings", "cleaned", "rule"),
    [
        ("दुसर\u093cया", {}, "दुस\u0931या", "unicode"),  # ra and nukta have a letter of their own
        ("\u0958लम", {}, "\u0915\u093cलम", "unicode"),  # qa has none in NFC
        ("न\ufeffम\x07स्ते", {}, "नमस्ते", "control_characters"),
        (" नमस्ते \r\nकसे\u2028आहात ", {}, "नमस्ते\nकसे\nआहात", "whitespace"),
        ("page 1\x0cpage 2\x0bline\x85end", {}, "page 1\npage 2\nline\nend", "whitespace"),
        ("<b>नमस्ते</b> &amp; <br/>आभार", {"clean_html": True}, "नमस्ते & \nआभार", None),
        ("/?a=1&copy=2&amp;lt=3&#x26;", {"clean_html": True}, "/?a=1&copy=2&lt=3&", "html"),
    ],
)
def test_only_the_named_rule_changes_it(written, settings, cleaned, rule):
    got, names = _clean(written, **settings)
    if rule is None:  # the blank that the tag left at the line's end is the next rule's
        assert (got, names) == (cleaned.replace(" \n", "\n"), {"html", "whitespace"})
        return
    assert (got, names) == (cleaned, {rule})
    switch = {"unicode": {"clean_unicode": "none"}}.get(rule, {f"clean_{rule}": False})
    assert _clean(written, **{**settings, **switch}) == (written, set())


@given(DEVANAGARI)
def test_cleaning_is_its_named_rules_and_no_more(text):
    expected = unicodedata.normalize("NFC", text)
    kept = {"\n", "\t", "\r", "\x0b", "\x0c", "\x85"}
    expected = "".join(
        c for c in expected if c in kept or (unicodedata.category(c) != "Cc" and c != "\ufeff")
    )
    expected = re.sub("\r\n|[\r\x0b\x0c\x85\u2028\u2029]", "\n", expected)
    expected = re.sub("[ \t\xa0]+\n", "\n", expected).strip()
    got, names = _clean(text)
    assert got == expected
    assert bool(names) == (got != text)
    assert _clean(got) == (got, set())  # cleaned text is clean
    off = {"clean_control_characters": False, "clean_whitespace": False, "clean_unicode": "none"}
    assert _clean(text, **off) == (text, set())

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.modeling.base import load_tokenizer
from mlflow_phi3.serving.text import TextStream
from tests.byte_fallback import make_byte_fallback
from tests.tiny_phi3 import write_checkpoint


@pytest.fixture(scope="module")
def tokenizer(base):
    return base.tokenizer


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces(tokenizer, text, stop=()):
    stream = TextStream(tokenizer, stop)
    return [stream.push(token) for token in ids(tokenizer, text)], stream


@pytest.mark.parametrize("text", ["hold the light", "é🙂 ünï", "  two  spaces ", "a\nb"])
def test_pieces_add_up_to_the_text(tokenizer, text):
    found, stream = pieces(tokenizer, text)
    assert "".join(found) + stream.finish() == text


def test_a_character_is_not_given_in_parts(tokenizer):
    found, _ = pieces(tokenizer, "🙂")
    assert len(found) > 1
    assert found[:-1] == [""] * (len(found) - 1)
    assert found[-1] == "🙂"


def test_text_before_the_stop_is_given_and_nothing_after(tokenizer):
    found, stream = pieces(tokenizer, "one STOP two", ["STOP"])
    assert "".join(found) + stream.finish() == "one "
    assert stream.stopped


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("a cc bb", ["bb", "cc"], "a "),
        ("hold the button", ["button", "utt"], "hold the b"),  # both end within one token
        ("xaab", ["aab"], "x"),
    ],
)
def test_the_first_stop_that_is_complete_wins(tokenizer, text, stop, kept):
    found, stream = pieces(tokenizer, text, stop)
    assert "".join(found) + stream.finish() == kept


def test_what_could_become_a_stop_is_held_back_and_given_in_the_end(tokenizer):
    found, stream = pieces(tokenizer, "one STO", ["STOP"])
    assert "".join(found) == "one "
    assert stream.finish() == "STO"
    assert not stream.stopped


def test_special_tokens_are_not_text(tokenizer):
    found, _ = pieces(tokenizer, "a<|end|>b")
    assert "".join(found) == "ab"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("▁the <0xC3> <0x9F> <0xF0> ▁the ▁world", "theß� the world"),
        ("▁the <0x75> <0xC1> ▁world a ▁the", "theu� worlda the"),
        ("▁the <0x41> <0xF0> <0x9F> ▁world a", "theA�� worlda"),
        ("▁the <0xF0> <0x9F> <0x99> <0x82> ▁world", "the🙂 world"),
    ],
)
def test_a_byte_that_spoils_a_character_spoils_no_answer(tokens, text):
    tokenizer = make_byte_fallback()
    stream = TextStream(tokenizer)
    found = "".join(map(stream.push, tokenizer.convert_tokens_to_ids(tokens.split())))
    assert found + stream.finish() == text
    assert stream.length == len(text)


@pytest.fixture(scope="module")
def any_tokenizer(tmp_path_factory):
    return load_tokenizer(str(write_checkpoint(tmp_path_factory.mktemp("text"))))


@given(text=st.text("abS é", max_size=20), stop=st.lists(st.text("abS", min_size=1, max_size=3)))
def test_equals_cutting_the_whole_text(any_tokenizer, text, stop):
    found, stream = pieces(any_tokenizer, text, stop)
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    cut = min(ends)[1] if ends else len(text)
    assert "".join(found) + stream.finish() == text[:cut]
    assert stream.stopped == any(word in text for word in stop)

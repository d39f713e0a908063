import copy

import pytest

from mlflow_phi3.serving.vocabulary import Vocabulary
from tests.byte_fallback import make_byte_fallback


@pytest.mark.parametrize("text", ["🙂é", "hold the light", "a<|end|>\n½☕"])
def test_bytes_of_tokens_add_up_to_the_texts(base, text):
    vocabulary = Vocabulary(base.tokenizer)
    ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(vocabulary.bytes_of, ids)) == text.encode()


def test_phi3s_own_spelling_of_bytes_and_spaces():
    tokenizer = make_byte_fallback()
    tokens = ["<s>", "▁the", "▁world", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "é", "\n"]
    found = map(Vocabulary(tokenizer).bytes_of, tokenizer.convert_tokens_to_ids(tokens))
    assert b"".join(found) == "<s> the world🙂é\n".encode()


def test_an_added_token_is_spelt_as_it_is(base):
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.add_tokens(["éé"])
    assert Vocabulary(tokenizer).bytes_of(len(tokenizer) - 1) == "éé".encode()


def test_an_id_beyond_the_vocabulary_has_no_bytes(base):
    assert Vocabulary(base.tokenizer).bytes_of(len(base.tokenizer) + 5) == b""

"""The bytes of single tokens."""

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


class Vocabulary:
    """What each token stands for, also where that is a part of a character.

    Phi-4's tokenizers spell every byte as a character of its own (GPT-2's table), Phi-3's a space
    as ``▁`` and a byte that is in no token as ``<0x0A>``.

    Args:
        tokenizer: Of the model that generates.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
        decoder = tokenizer.backend_tokenizer.decoder
        kinds = _kinds(json.loads(decoder.__getstate__())) if decoder else set()
        spelt = {char: byte for byte, char in bytes_to_unicode().items()}
        self._spelt: dict[str, int] = spelt if "ByteLevel" in kinds else {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; none of an id that the tokenizer does not have."""
        if token in self._added:
            return self._added[token].encode()
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if self._spelt.keys() >= set(piece):
            return bytes(self._spelt[char] for char in piece)
        byte = _BYTE.fullmatch(piece)
        return bytes.fromhex(byte[1]) if byte else piece.replace(_SPACE, " ").encode()


def _kinds(decoder: dict[str, Any]) -> set[str]:
    """The kinds of a decoder and of those that it is made of."""
    parts = [_kinds(part) for part in decoder.get("decoders", ())]
    return {decoder["type"]}.union(*parts)

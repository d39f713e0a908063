"""A tokenizer that spells as Phi-3's own: spaces as ``▁``, and bytes that are in no token alone."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

PIECES = ("▁the", "▁world", "a", "b", "é", "\n")


def make_byte_fallback() -> PreTrainedTokenizerFast:
    pieces = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES)
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )

"""Train the demo tokenizer: byte-level BPE with Phi-3's special tokens and chat template."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["END", "END_OF_TEXT", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
END = "<|end|>"

# Phi-3 strips the line break after these, so that "<|user|>\n" is one token.
# Source: microsoft/Phi-3-mini-4k-instruct, tokenizer_config.json, added_tokens_decoder.
_ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", END)

# Source: microsoft/Phi-3-mini-4k-instruct, tokenizer_config.json, chat_template.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def train_tokenizer(
    documents: Iterable[str], *, vocabulary_size: int, model_max_length: int
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents.

    Args:
        documents: The text to learn the merges from.
        vocabulary_size: Tokens in all, the special ones included.
        model_max_length: The longest input of the model, in tokens.

    Returns:
        A tokenizer that `AutoTokenizer.from_pretrained` loads once it is saved.
    """
    tokenizer = Tokenizer(models.BPE())
    # Single digits, as in Phi-3's own vocabulary: numbers are facts here and must come out exactly.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[
            AddedToken(END_OF_TEXT, normalized=False, special=True),
            *(
                AddedToken(name, rstrip=True, normalized=False, special=True)
                for name in _ROLE_TOKENS
            ),
        ],
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )

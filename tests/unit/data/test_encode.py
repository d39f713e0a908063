import dataclasses
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mlflow_phi3
from mlflow_phi3.data.encode import ALIAS, Encoder
from mlflow_phi3.data.findings import RULES
from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.template import TemplateSource
from mlflow_phi3.errors import DataError

DEMO = Path(mlflow_phi3.__file__).parent / "modeling" / "demo" / "checkpoint"
# As the model cards of microsoft/Phi-3-mini-4k-instruct, Phi-3.5-mini-instruct,
# Phi-4-mini-instruct and phi-4 publish them.
TEMPLATES = {
    "phi-3": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
        "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
        "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi-3.5": (
        "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
        "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
        "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' "
        "%}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi-4-mini": (
        "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and "
        "message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + "
        "'<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + "
        "message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi-4": (
        "{% for message in messages %}{% if (message['role'] == 'system') %}"
        "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
        "{% elif (message['role'] == 'user') %}"
        "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
        "{% elif (message['role'] == 'assistant') %}"
        "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
}
SPECIALS = {
    "phi-4-mini": ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "phi-4": ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"],
}
CONVERSATIONS = {
    "one exchange": [("user", "What is 2 + 2?"), ("assistant", "It is 4.")],
    "system": [("system", "Be kind."), ("user", "Hello  there"), ("assistant", "Hi\n\nyou")],
    "many turns": [
        ("system", "नमस्कार, मदत करा."),
        ("user", "तुम्ही कसे आहात?"),
        ("assistant", "मी ठीक आहे. 😀"),
        ("user", "def f(x):\n    return x"),
        ("assistant", "▁ odd ▁▁ marks"),
    ],
    "template-like": [
        ("user", "What does the role 'assistant' mean in <|im... or <|us er|> markup?"),
        ("assistant", "{{ message['content'] }} {% raw %} <| end |>"),
    ],
}


@pytest.fixture(scope="session")
def byte_level():
    """A tokenizer of Phi-4's kind: byte-level BPE behind a splitting expression."""

    def build(specials):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        texts = [text for turns in CONVERSATIONS.values() for _, text in turns] * 5
        trainer = trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")

    return build


@pytest.fixture(params=list(TEMPLATES))
def model(request, tokenizer, byte_level):
    name = request.param
    found = byte_level(SPECIALS[name]) if name in SPECIALS else tokenizer
    before = found.chat_template
    found.chat_template = TEMPLATES[name]
    yield found
    found.chat_template = before


@pytest.mark.parametrize("name", list(CONVERSATIONS))
@pytest.mark.parametrize("fast", [True, False])
def test_ids_and_mask_agree_with_the_template(model, name, fast):
    turns = CONVERSATIONS[name]
    messages = [Message(role, content) for role, content in turns]
    chat = [{"role": role, "content": content} for role, content in turns]
    encoder = Encoder(TemplateSource.from_tokenizer(model), fast=fast, check_every=1)
    (encoded,) = encoder.encode_all([messages])
    assert encoded.ids.tolist() == model.apply_chat_template(chat, return_dict=False)
    spans = encoded.supervised_spans([role for role, _ in turns], "all-assistant")
    answers = [content for role, content in turns if role == "assistant"]
    closing = "<|im_end|>" if "<|im_end|>" in model.get_vocab() else "<|end|>"
    for (start, end), answer in zip(spans, answers, strict=True):
        learnt = encoded.ids[start:end]
        assert model.convert_ids_to_tokens([int(learnt[-1])]) == [closing]
        # ▁ is how this kind of tokenizer writes a blank: decoding cannot tell them apart.
        assert (
            model.decode(learnt[:-1]).replace("▁", " ").strip() == answer.replace("▁", " ").strip()
        )
    assert encoded.supervised_spans([role for role, _ in turns], "last") == spans[-1:]
    (prompt,) = encoder.encode_all([messages[:-1]], prompt=True)
    opened = model.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=False)
    assert prompt.ids.tolist() == opened
    assert encoded.ids[: len(opened)].tolist() == opened


def test_an_answer_that_nothing_closes_is_learnt_without_the_turns_behind_it(tokenizer):
    source = TemplateSource.from_tokenizer(tokenizer)
    open_ended = (
        "{% for message in messages %}### {{ message['role'] | title }}:\n"
        "{{ message['content'] }}\n{% endfor %}{{ eos_token }}"
    )
    messages = [
        Message(*turn)
        for turn in zip(["user", "assistant"] * 2, ["Why?", "So.", "How?", "Thus."], strict=True)
    ]
    encoder = Encoder(dataclasses.replace(source, template=open_ended))
    (encoded,) = encoder.encode_all([messages])
    spans = encoded.supervised_spans([message.role for message in messages], "all-assistant")
    learnt = ["".join(encoder.decode(encoded.ids[start:end])).split() for start, end in spans]
    assert learnt == [["So."], ["Thus.", source.tokens["eos_token"]]]


def test_what_is_written_cannot_forge_a_turn(model):
    specials = [token for token in model.get_added_vocab() if token.startswith("<|")]
    forged = f"{specials[-1]}\n" + "\n".join(f"{token}assistant{token}" for token in specials)
    encoder = Encoder(TemplateSource.from_tokenizer(model), check_every=1)
    plain, encoded = encoder.encode_all(
        [
            [Message("user", "x"), Message("assistant", "y")],
            [Message("user", forged), Message("assistant", f"y{forged}")],
        ]
    )
    count = [sum(encoder.is_special(token) for token in found.ids) for found in (plain, encoded)]
    assert count[0] == count[1]
    assert encoder.find_special(forged) is not None
    text = "".join(encoder.decode(encoded.ids[slice(*encoded.turns[0, :2])]))
    assert text.replace(" ", "") == forged.replace(" ", "")


def test_the_word_lane_is_taken_only_where_it_is_proven(tokenizer, byte_level):
    assert Encoder(TemplateSource.from_tokenizer(tokenizer))._lane is not None
    other = byte_level(SPECIALS["phi-4"])
    other.chat_template = TEMPLATES["phi-4"]
    assert Encoder(TemplateSource.from_tokenizer(other))._lane is None
    demo = AutoTokenizer.from_pretrained(DEMO)
    assert Encoder(TemplateSource.from_tokenizer(demo))._lane is None


def _with_a_blank_inside(parsed):
    parsed["model"]["vocab"]["a▁b"] = len(parsed["model"]["vocab"]) + 1000


def _without_the_blank(parsed):
    parsed["model"]["vocab"]["_"] = parsed["model"]["vocab"].pop("▁")
    parsed["model"]["merges"] = []


def _whole_words_first(parsed):
    parsed["model"]["ignore_merges"] = True


def _with_another_normalizer(parsed):
    parsed["pre_tokenizer"], parsed["normalizer"] = None, {"type": "NFKC"}


@pytest.mark.parametrize(
    "change",
    [_with_a_blank_inside, _without_the_blank, _whole_words_first, _with_another_normalizer],
)
def test_where_cutting_at_blanks_may_differ_the_plain_way_is_taken(tokenizer, change):
    parsed = json.loads(TemplateSource.from_tokenizer(tokenizer).tokenizer)
    change(parsed)
    source = TemplateSource(json.dumps(parsed), TEMPLATES["phi-3"], {"eos_token": "<|endoftext|>"})
    assert Encoder(source)._lane is None


# What could make words differ: blanks of all kinds, marks that stand for blanks, scripts that the
# vocabulary writes in bytes, and the template's own words.
_TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [" ", "  ", "   ", "\n", "\t", "\r\n", "▁", "▁ ▁", "\xa0", "\u3000", "\x00", "\x1c"]
        ),
        st.sampled_from(["<|end|>", "<|user|>", "<s>", "<0x0A>", "<unk>", "\U0010fffd", "{{ x }}"]),
        st.sampled_from(
            ["नमस्कार", "आहात?", "👩\u200d🚀", "the", "The", "don't", "l'été", "東京", "x" * 50]
        ),
        st.text(max_size=12),
    ),
    min_size=1,
    max_size=12,
).map("".join)
_LEGACY = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


@pytest.fixture(scope="session", params=["Metaspace", "normalizer"])
def lane(request, tokenizer):
    """An encoder with the word lane, whose words stay known; by either way to write blanks."""
    source = TemplateSource.from_tokenizer(tokenizer)
    if request.param == "normalizer":
        parsed = json.loads(source.tokenizer)
        parsed["pre_tokenizer"], parsed["normalizer"] = None, _LEGACY
        source = dataclasses.replace(source, tokenizer=json.dumps(parsed))
    encoder = Encoder(source)
    assert encoder._lane is not None
    return encoder


@given(
    rows=st.lists(
        st.lists(_TEXTS.filter(lambda text: ALIAS not in text), min_size=2, max_size=3),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=150, deadline=None)
def test_the_word_lane_gives_the_tokenizers_ids(lane, rows):
    roles = ("system", "user", "assistant")
    blocks = [list(map(Message, roles[-len(texts) :], texts)) for texts in rows]
    for messages, fast in zip(blocks, lane.encode_all(blocks), strict=True):
        slow = lane.encode(messages)
        assert fast.ids.tolist() == slow.ids.tolist()
        assert fast.turns.tolist() == slow.turns.tolist()


def test_a_lane_that_disagrees_is_found_out(tokenizer):
    encoder = Encoder(TemplateSource.from_tokenizer(tokenizer), check_every=1)
    encoder._lane._words["Hi"] = [1, 2, 3]
    with pytest.raises(DataError, match="PHI3-D025"):
        encoder.encode_all([[Message("user", "Hi"), Message("assistant", "Hi")]])


def test_a_template_that_changes_contents_is_refused(tokenizer):
    source = TemplateSource.from_tokenizer(tokenizer)
    shouting = TemplateSource(
        source.tokenizer, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    )
    messages = [Message("user", "hi"), Message("assistant", "ho")]
    with pytest.raises(DataError, match="PHI3-D023"):
        Encoder(shouting).encode(messages)
    (error,) = Encoder(shouting).encode_all([messages])
    assert error.code == "PHI3-D023"


@pytest.mark.parametrize(
    "look", ["message['content'] | trim", "message['content'].split('</think>')[-1]"]
)
def test_a_template_that_changes_some_contents_is_refused_for_these(look, tokenizer):
    source = TemplateSource.from_tokenizer(tokenizer)
    changed = source.template.replace("message['content']", f"({look})")
    encoder = Encoder(dataclasses.replace(source, template=changed))
    rows = [
        [Message("user", "Why?"), Message("assistant", answer)]
        for answer in ("So.", "<think>x</think> So. ", "Thus.", "<think>y</think> Thus. ")
    ]
    found = encoder.encode_all(rows)
    assert [isinstance(one, DataError) for one in found] == [False, True, False, True]
    assert found[3].code == "PHI3-D023"
    assert np.array_equal(found[2].ids, Encoder(source).encode(rows[2]).ids)


@pytest.mark.parametrize("template", [None, {"default": "{{ messages }}", "rag": ""}])
def test_several_templates_or_none_are_refused(template, tokenizer):
    bare = types.SimpleNamespace(
        chat_template=template,
        special_tokens_map={},
        backend_tokenizer=tokenizer.backend_tokenizer,
    )
    with pytest.raises(DataError, match=r"PHI3-D023: the tokenizer's chat_template is .* expected"):
        TemplateSource.from_tokenizer(bare)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ tools | tojson }}", "cannot render these messages: .*not JSON serializable"),
        ("{{ messages[0]['content'] }}", r"leaves out message 2 \(assistant\)"),
    ],
)
def test_a_row_that_a_template_cannot_show_is_an_error(template, told, tokenizer):
    source = dataclasses.replace(TemplateSource.from_tokenizer(tokenizer), template=template)
    (found,) = Encoder(source).encode_all([[Message("user", "Why?"), Message("assistant", "So.")]])
    assert RULES[found.code].severity == "error"
    assert re.search(told, found.problem)


def test_a_template_that_leaves_a_message_out_shows_an_empty_turn(tokenizer):
    source = TemplateSource.from_tokenizer(tokenizer)
    deaf = TEMPLATES["phi-3"].replace("message['role'] == 'system'", "false")
    encoder = Encoder(TemplateSource(source.tokenizer, deaf, source.tokens))
    (encoded,) = encoder.encode_all(
        [[Message("system", "s"), Message("user", "u"), Message("assistant", "a")]]
    )
    assert np.array_equal(encoded.turns[0], [0, 0, 0])


def test_a_character_of_several_tokens_is_read_whole(tokenizer):
    encoder = Encoder(TemplateSource.from_tokenizer(tokenizer))
    said = "Well 👩\u200d🚀 done, \u2018मराठी\u2019 \ufffd!"
    encoded = encoder.encode([Message("user", said), Message("assistant", "Hi")])
    ids = encoded.ids[slice(*encoded.turns[0, :2])]
    texts = encoder.decode(ids)
    assert len(texts) == len(ids)
    assert "".join(texts).strip() == said

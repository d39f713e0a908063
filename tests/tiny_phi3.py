"""A random Phi-3 of 0.1 M weights, with its own tokenizer: all that is real but the knowledge."""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from mlflow_phi3.data.messages import Conversation, Example, Message, to_dicts
from mlflow_phi3.modeling.base import Base, load_base

SPECIAL = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)


def write_checkpoint(folder: Path, *, seed: int = 0, context: int = 256) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["hold the button until the light turns blue"] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,  # rows of whole blocks of four bits
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        original_max_position_embeddings=context,
        initializer_range=0.4,  # far apart logits: an answer does not hang on the last bit
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    return folder


def with_longrope(model: Phi3ForCausalLM, original: int) -> Phi3ForCausalLM:
    """The same weights; all of a batch is turned otherwise once one is longer than ``original``."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [9.0] * 8,
        "original_max_position_embeddings": original,
    }
    told = {"original_max_position_embeddings": original, "rope_parameters": rope}
    stretched = Phi3ForCausalLM(Phi3Config(**{**model.config.to_dict(), **told})).eval()
    stretched.load_state_dict(model.state_dict())
    stretched.generation_config = model.generation_config
    return stretched


def write_adapter(base: Base, folder: Path, *, seed: int = 1, strength: float = 0.3) -> Path:
    """An adapter in PEFT's format whose update is not zero."""
    torch.manual_seed(seed)
    fresh = load_base(base.name)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(fresh.model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    tuned.save_pretrained(folder)
    return folder


def conversation(question: str, answer: str, line: int = 1) -> Conversation:
    messages = (Message("user", question), Message("assistant", answer))
    return Conversation(messages, source="test.jsonl", line=line)


def example(base: Base, talk: Conversation) -> Example:
    """Tokenised, the answer supervised."""
    chat = to_dicts(talk.messages)
    template = base.tokenizer.apply_chat_template
    before = template(chat[:-1], tokenize=False, add_generation_prompt=True)
    whole = template(chat, tokenize=False)
    ids = base.tokenizer(whole, add_special_tokens=False)["input_ids"]
    start = len(base.tokenizer(before, add_special_tokens=False)["input_ids"])
    supervised = np.arange(len(ids)) >= start
    return Example(np.array(ids, dtype=np.int32), supervised, talk.place)

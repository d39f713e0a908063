"""Make the demo checkpoint anew: ``python -m mlflow_phi3.modeling.demo.build``.

Everything comes from this repository: the text is written from `knowledge/`, the tokenizer is
trained on it, and the model is pretrained on one CPU thread, so that two builds on one machine
give the same bytes. The model card beside the weights tells which build they come from.
"""

import argparse
import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GenerationConfig, Phi3ForCausalLM, PreTrainedTokenizerFast

from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.modeling.demo.corpus import write_documents
from mlflow_phi3.modeling.demo.knowledge import load_exchanges, load_topics
from mlflow_phi3.modeling.demo.pretraining import MAX_LENGTH, VOCABULARY_SIZE, Recipe, pretrain
from mlflow_phi3.modeling.demo.tokenizer import END, END_OF_TEXT, train_tokenizer
from mlflow_phi3.modeling.precision import cast_weights

__all__ = ["build", "main"]

_TOKENIZER_DOCUMENTS = 20_000


def build(folder: Path, recipe: Recipe) -> None:
    """Train the tokenizer and the model and save both.

    Args:
        folder: Where the checkpoint goes; files of the same names are replaced.
        recipe: Sizes and rates of the pretraining.
    """
    started = time.monotonic()
    topics, exchanges, banned = load_topics(), load_exchanges(), conversation_texts()
    sample = write_documents(topics, exchanges, seed=recipe.seed, banned=banned)
    tokenizer = train_tokenizer(
        itertools.islice(sample, _TOKENIZER_DOCUMENTS),
        vocabulary_size=VOCABULARY_SIZE,
        model_max_length=MAX_LENGTH,
    )
    documents = write_documents(topics, exchanges, seed=recipe.seed + 1, banned=banned)
    save_checkpoint(folder, pretrain(documents, tokenizer, recipe), tokenizer)
    teach_second_lesson(folder, tokenizer, recipe.second())
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(f"saved to {folder} after {minutes:.1f} minutes\n")


def teach_second_lesson(folder: Path, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Train the checkpoint of the first lesson on the text of the second and save it.

    Args:
        folder: Where the checkpoint lies, and is replaced.
        tokenizer: The demo tokenizer.
        recipe: Sizes and rates of the second lesson.
    """
    model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32, resid_pdrop=recipe.dropout)
    documents = write_documents(
        load_topics(),
        load_exchanges(),
        seed=recipe.seed + 2,
        banned=conversation_texts(),
        second=True,
    )
    save_checkpoint(folder, pretrain(documents, tokenizer, recipe, start=model), tokenizer)


def conversation_texts() -> list[str]:
    """Every question and answer of the bundled conversations: the pretraining text holds none."""
    return [
        message["content"]
        for messages in load_conversations()
        for message in messages
        if message["role"] != "system"
    ]


def save_checkpoint(
    folder: Path, model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Save model and tokenizer in the layout of a Phi-3 checkpoint.

    Args:
        folder: Where the files go.
        model: The pretrained model; it is turned to bfloat16.
        tokenizer: The demo tokenizer.
    """
    end_of_text, end = (tokenizer.convert_tokens_to_ids(name) for name in (END_OF_TEXT, END))
    model.generation_config = GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=[end_of_text, end], pad_token_id=end_of_text
    )
    cast_weights(model, torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The name that every version of transformers knows; version 5 alone writes its new one.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=checkpoint_path())
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="optimizer steps")
    arguments = parser.parse_args()
    # More threads add in another order, and the weights would differ from machine to machine.
    torch.set_num_threads(1)
    build(arguments.folder, replace(Recipe(), steps=arguments.steps))


if __name__ == "__main__":
    main()

"""The end of a base: its vocabulary, to answer, or a head over labels, to classify."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.generate import padding_id


def with_labels(base: Base, labels: Sequence[str]) -> Base:
    """The same frozen weights under a head over ``labels``; nothing is copied.

    A fresh head is zero, so that the untuned base holds every label for equally likely. One that
    knows exactly these labels already is kept.

    Args:
        base: A base that answers, or one that classifies.
        labels: Names of the classes, in the order of the logits; at least two.

    Returns:
        A base whose model is of transformers' ``*ForSequenceClassification``.
    """
    names = tuple(labels)
    if base.labels == names:
        return base
    config = copy.deepcopy(base.model.config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    config.pad_token_id = padding_id(base.model, base.tokenizer)
    inner = base.model.base_model
    embedding = inner.get_input_embeddings().weight
    with torch.device("meta"):  # only the shape: the weights are the base's own
        model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, model.base_model_prefix, inner)
    model.is_loaded_in_4bit = base.quantization != "none"  # PEFT asks for it
    head = nn.Linear(config.hidden_size, len(names), bias=False)
    nn.init.zeros_(head.weight)
    model.score = head.to(device=embedding.device, dtype=embedding.dtype)
    model.eval().requires_grad_(requires_grad=False)
    return replace(base, model=model)

"""Load a Phi checkpoint and its tokenizer: the demo, a folder, or the hub (revision pinned)."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.catalog import find
from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.modeling.hardware import has_bfloat16
from mlflow_phi3.modeling.kinds import choose_class, labels_of
from mlflow_phi3.modeling.quantization import (
    Quantization,
    find_quantization,
    free_from_loader,
    loading_options,
)
from mlflow_phi3.modeling.reading import reading

DEMO = "demo"
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen base model with its tokenizer.

    Args:
        model: ``Phi3ForCausalLM`` or ``Phi3ForSequenceClassification`` (or their kin) in evaluation
            mode, gradients off.
        tokenizer: Its tokenizer, with a chat template.
        name: What the person asked for: ``demo``, a hub id or a folder.
        revision: Commit of the hub repository; for a folder, a digest of its configuration and
            weights.
        path: Where the checkpoint's files lie, or the hub id.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    name: str
    revision: str
    path: str

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the chat template, to tell apart data rendered by different templates."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits; empty for a model that answers."""
        return labels_of(self.model)

    @property
    def quantization(self) -> str:
        """How the linear layers' weights are kept: ``none``, or ``nf4`` for four bits."""
        return find_quantization(self.model)

    @property
    def precision(self) -> str:
        """Number format of the weights that are not in four bits: ``float32`` or ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of the base it was made with."""
        return {
            "phi3.base_model": self.name,
            "phi3.base_revision": self.revision,
            "phi3.base_precision": self.precision,
            "phi3.base_quantization": self.quantization,
        }


def resolve_checkpoint(name: str) -> str:
    """Where the checkpoint ``name`` is loaded from: a folder as text, or the hub id itself.

    Raises:
        UsageError: ``name`` looks like a folder and there is none.
    """
    if name == DEMO:
        return str(checkpoint_path())
    if Path(name).is_dir():
        return str(Path(name).resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = find(name)
        raise UsageError(
            "PHI3-U010",
            f"no folder and no hub id: {name!r}",
            where="model",
            fix=f"did you mean {known.hub_id!r}?"
            if known
            else f"name a folder, a hub id such as microsoft/Phi-4-mini-instruct, or {DEMO!r}",
        )
    return name


def load_tokenizer(name: str, *, revision: str | None = None) -> Tokenizer:
    """Load the tokenizer of checkpoint ``name``.

    Raises:
        UsageError: It cannot be read, or has no chat template.
    """
    path = resolve_checkpoint(name)
    with reading(name):
        tokenizer = AutoTokenizer.from_pretrained(path, **_from(path, revision))
    if not tokenizer.chat_template:
        raise UsageError(
            "PHI3-U011",
            "the tokenizer has no chat template",
            where=name,
            fix="use an instruct checkpoint, which brings one",
        )
    return tokenizer


def read_context_length(name: str, *, revision: str | None = None) -> int:
    """Tokens that checkpoint ``name`` can read at once.

    Raises:
        UsageError: It cannot be read.
    """
    path = resolve_checkpoint(name)
    with reading(name):
        config = AutoConfig.from_pretrained(path, **_from(path, revision))
    return int(config.max_position_embeddings)


def load_base(
    name: str,
    *,
    revision: str | None = None,
    precision: Precision = "auto",
    quantization: Quantization = "none",
    device: str = "cpu",
    computes_on: str | None = None,
) -> Base:
    """Load checkpoint ``name`` frozen and in evaluation mode.

    Args:
        name: ``demo``, a folder, or a hub id.
        revision: Commit, branch or tag of the hub repository; None takes the catalog's commit.
        precision: ``auto`` is float32 for the demo and on a device without fast bfloat16, else
            bfloat16.
        quantization: ``nf4`` keeps the linear layers' weights in four bits; ``precision`` is then
            what they are read, and computed with, in.
        device: torch device the weights go to.
        computes_on: The device that ``precision=auto`` asks, where they move on to another.

    Raises:
        UsageError: The checkpoint cannot be read, has no chat template, or bitsandbytes is missing.
    """
    path = resolve_checkpoint(name)
    revision = pin_revision(path, revision)
    tokenizer = load_tokenizer(name, revision=revision)
    dtype = choose_dtype(precision, name=name, device=computes_on or device)
    with reading(name):
        kind = choose_class(path, revision=revision, local_files_only=_offline(path))
        model = kind.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            **_from(path, revision),
            **loading_options(quantization, dtype, device),
        )
    free_from_loader(model)
    model.to(device).eval().requires_grad_(requires_grad=False)
    # Of a folder nothing can be asked for: a revision that was given says nothing of what it holds.
    read = _digest(Path(path)) if Path(path).is_dir() else revision
    found = getattr(model.config, "_commit_hash", None) or read
    return Base(model=model, tokenizer=tokenizer, name=name, revision=str(found), path=path)


def pin_revision(hub_id: str, revision: str | None) -> str | None:
    """``revision`` when there is one, else the catalog's commit of ``hub_id``, else None."""
    known = find(hub_id)
    return revision or (known.revision if known else None)


def choose_dtype(precision: Precision, *, name: str, device: str) -> torch.dtype:
    """The dtype of the base's weights: see ``precision`` of :func:`load_base`."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if name == DEMO:
        return torch.float32
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def _from(path: str, revision: str | None) -> dict[str, Any]:
    """What every ``from_pretrained`` is told: where to read, and to run no code of others."""
    return {
        "revision": pin_revision(path, revision),
        "local_files_only": _offline(path),
        "trust_remote_code": False,
    }


def _offline(path: str) -> bool:
    return Path(path).is_dir() or os.environ.get("HF_HUB_OFFLINE") == "1"


def _digest(folder: Path) -> str:
    """SHA-256 over the checkpoint's configuration and weights."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()

"""A model that can be loaded anywhere: a whole checkpoint, or an adapter with its base pinned."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch

from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.adapter import check_adapter
from mlflow_phi3.modeling.base import Base, Precision, load_base
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.kinds import BASE_FILE, is_pinned
from mlflow_phi3.modeling.merge import fold_adapter
from mlflow_phi3.modeling.precision import cast_weights
from mlflow_phi3.modeling.quantization import Quantization


@dataclass(frozen=True, slots=True)
class PinnedBase:
    """Which base an adapter belongs to, exactly.

    Args:
        name: ``demo``, a hub id or a folder.
        revision: Commit of the hub repository, or the digest of the folder's weights.
        dtype: Number format in which base and adapter are added up.
        labels: Of a classifier's head; empty for a model that answers.
        quantization: How the base's linear layers are kept: ``none`` or ``nf4``.
        read_as: Number format in which a quantised base was read, which decides how it is rounded.
    """

    name: str
    revision: str
    dtype: str
    labels: tuple[str, ...] = ()
    quantization: Quantization = "none"
    read_as: str = ""


def save_pinned(base: Base, adapter: Path, out: Path, *, dtype: torch.dtype) -> Path:
    """Write ``adapter`` with the name of its base into the new folder ``out``.

    Raises:
        UsageError: ``adapter`` holds no adapter.
    """
    check_adapter(adapter)
    shutil.copytree(adapter, out)
    pinned = PinnedBase(
        base.name,
        base.revision,
        str(dtype).removeprefix("torch."),
        base.labels,
        cast("Quantization", base.quantization),
        base.precision,
    )
    (out / BASE_FILE).write_text(json.dumps(asdict(pinned), indent=2) + "\n", encoding="utf-8")
    return out


def load_portable(folder: Path, *, precision: Precision = "auto", device: str = "cpu") -> Base:
    """Load what ``register`` wrote, in either format.

    Args:
        folder: A checkpoint, or an adapter with its base pinned.
        precision: ``auto`` takes the format that an adapter was pinned with, and a checkpoint as
            :func:`load_base` does.
        device: torch device the weights go to.

    Raises:
        PreflightError: The base is not the one that the adapter was trained on.
        UsageError: There is no such base.
    """
    if not is_pinned(folder):
        return load_base(str(folder), precision=precision, device=device)
    facts = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    pinned = PinnedBase(**facts | {"labels": tuple(facts["labels"])})
    # A hub's commit can be asked for; a folder's digest can only be compared.
    hub_commit = pinned.revision if pinned.name.count("/") == 1 else None
    quantised = pinned.quantization != "none"
    base = load_base(
        pinned.name,
        revision=hub_commit,
        precision=_to_precision(pinned.read_as if quantised else pinned.dtype),
        quantization=pinned.quantization,
    )
    if base.revision != pinned.revision:
        raise PreflightError(
            "PHI3-P042",
            f"the base {pinned.name} is {base.revision[:12]}, the adapter was trained on "
            f"{pinned.revision[:12]}",
            where=str(folder),
            fix="bring the base that it was trained on, or register with model_format=merged",
        )
    if pinned.labels:
        base = with_labels(base, pinned.labels)
    model = fold_adapter(base.model, folder, dtype=getattr(torch, pinned.dtype))
    wanted = getattr(torch, pinned.dtype if precision == "auto" else precision)
    cast_weights(model, wanted).to(device).eval().requires_grad_(requires_grad=False)
    return replace(base, model=model)


def _to_precision(dtype: str) -> Precision:
    return "float32" if dtype == "float32" else "bfloat16"

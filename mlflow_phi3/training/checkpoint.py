"""Resumable state on disk: a folder that is either the old checkpoint or the new one, never half.

``best`` holds PEFT's two files; ``last`` holds them and what continuing needs. There is no random
state in it: order and dropout are functions of the seed and the step (see ``schedule``).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.files import link_or_copy
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.engine.adapters import Layout
from mlflow_phi3.training.peft_files import save_adapter
from mlflow_phi3.training.reports import StepReport
from mlflow_phi3.training.spec import TrialSpec

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
_LOSSES = ("best_loss", "best_before")  # infinite before the first, for which JSON has no word


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a trial has come.

    Args:
        step: Optimizer steps done; the position in the data follows from it.
        evaluated: Evaluations done.
        best_loss: Lowest validation loss, infinite before the first.
        best_before: The same without the last evaluation, which may have to be told again.
        identity: What must be the same for a continuation to mean anything: the specification,
            the base and the examples, as JSON values.
        start: Digest of the adapter it began with; empty for a fresh one.
        untold: Steps of its trajectory's trials that are told again: nobody has heard of them, or
            whoever has may not have written them down.
    """

    step: int
    evaluated: int
    best_loss: float
    best_before: float
    identity: Mapping[str, Any]
    start: str = ""
    untold: tuple[StepReport, ...] = ()


def save_checkpoint(
    folder: Path,
    layout: Layout,
    weights: Tensor,
    *,
    base_name: str,
    optimizer: Optimizer | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint beside ``folder``, then put it in its place.

    Args:
        folder: ``.../best`` or ``.../last``.
        layout: Where the adapter's tensors lie.
        weights: float32 ``[layout.size]``.
        base_name: Recorded in PEFT's configuration.
        optimizer: Its state is stored; None for an adapter alone.
        progress: Stored with it.
    """
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_adapter(beside, layout, weights, base_name)
    if optimizer is not None and progress is not None:
        tensors, rest = _split_state(optimizer)
        save_file(tensors, beside / OPTIMIZER_FILE)
        losses = {name: _to_json(getattr(progress, name)) for name in _LOSSES}
        state = {**asdict(progress), **losses, "optimizer": rest}
        (beside / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    replace_folder(beside, folder)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Make ``target`` the same checkpoint as ``source``; the files are linked, not copied."""
    _copy(source, target)


def copy_adapter(source: Path, target: Path) -> None:
    """Make ``target`` the adapter of the checkpoint ``source``, without what continuing needs."""
    _copy(source, target, OPTIMIZER_FILE, STATE_FILE)


def is_resumable(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint to continue from, if need be after a crash."""
    finish_replacing(folder)
    return (folder / STATE_FILE).is_file()


def load_progress(folder: Path) -> Progress:
    """Read how far the checkpoint in ``folder`` has come.

    Raises:
        TrainingError: There is no resumable checkpoint.
    """
    if not is_resumable(folder):
        raise TrainingError(
            "PHI3-T012", "no resumable checkpoint", where=str(folder), fix="start the trial anew"
        )
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    del state["optimizer"]
    losses = {name: _from_json(state[name]) for name in _LOSSES}
    untold = tuple(StepReport(**report) for report in state["untold"])
    return Progress(**{**state, **losses, "untold": untold})


def leave_untold(folder: Path, steps: Sequence[StepReport]) -> None:
    """Let whoever continues the checkpoint in ``folder``, if there is one, tell ``steps`` again."""
    if not steps or not is_resumable(folder):
        return
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    state["untold"] = [*map(asdict, steps), *state["untold"]]
    beside = folder / f".{STATE_FILE}.new"  # other trials' checkpoints may share the file
    beside.write_text(json.dumps(state), encoding="utf-8")
    beside.replace(folder / STATE_FILE)


def identify(spec: TrialSpec, base: Base, data_sha256: str) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued, as JSON values."""
    return {
        "spec": asdict(spec.trunk),
        "base": [base.name, base.revision, base.quantization],
        "precision": base.precision,
        "data_sha256": data_sha256,
    }


def check_identity(folder: Path, progress: Progress, identity: Mapping[str, Any]) -> None:
    """Refuse to continue the checkpoint in ``folder`` as something else.

    Raises:
        TrainingError: Something in ``identity`` differs from what the checkpoint says.
    """
    for key, value in json.loads(json.dumps(identity)).items():
        if progress.identity.get(key) != value:
            raise TrainingError(
                "PHI3-T014",
                f"trained with another {key}: {progress.identity.get(key)}, now {value}",
                where=str(folder),
                fix="resume with what the trial began with, or start it anew",
            )


def digest_examples(examples: Iterable[Example]) -> str:
    """SHA-256 over everything of ``examples`` that training sees."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.input_ids.tobytes() + example.supervised.tobytes())
        digest.update(repr(example.label).encode())
    return digest.hexdigest()


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Put the stored state into a fresh ``optimizer`` over tensors of the same shapes."""
    rest = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["optimizer"]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest.items()}
    for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def discard_checkpoints(folder: Path) -> None:
    """Remove what an earlier trial of the same name left in ``folder``."""
    for name in ("best", "last"):
        for path in (folder / name, folder / f".{name}.new", folder / f".{name}.old"):
            with suppress(FileNotFoundError):  # what stays would be taken for this one's
                shutil.rmtree(path)


def replace_folder(beside: Path, folder: Path) -> None:
    """Let ``beside`` become ``folder``, all of it on the disk before the first rename."""
    for path in (*sorted(beside.rglob("*")), beside):
        _sync(path)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def finish_replacing(folder: Path) -> None:
    """After a crash between the two renames: the complete new folder takes its place."""
    beside = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        (beside if beside.exists() else old).rename(folder)


def _split_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The optimizer's state as tensors for safetensors and the rest for JSON."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for index, parameter in enumerate(parameters):
        # Not by ``state_dict``, in which bitsandbytes' optimizers wrap theirs once more.
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().clone()
            else:
                rest.setdefault(str(index), {})[name] = value
    return tensors, rest


def _to_json(loss: float) -> float | None:
    return loss if loss < float("inf") else None


def _from_json(loss: float | None) -> float:
    return float("inf") if loss is None else loss


def _copy(source: Path, target: Path, *without: str) -> None:
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    ignored = shutil.ignore_patterns(*without)
    # Linking is safe: a checkpoint's files are never written again, only replaced.
    shutil.copytree(source, beside, copy_function=link_or_copy, ignore=ignored)
    replace_folder(beside, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

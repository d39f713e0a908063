"""All that is needed to log a servable model; the logging itself belongs to tracking."""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow_phi3
from mlflow_phi3.files import link_or_copy
from mlflow_phi3.modeling.kinds import BASE_FILE, is_pinned
from mlflow_phi3.tracking.servable import Servable

CHECKPOINT = "artifacts/checkpoint"
"""Where the weights lie within a logged model."""

# What loading and answering import, no more: a serving image need not hold the training stack.
_REQUIRED = (
    "mlflow",
    "torch",
    "transformers",
    "safetensors",
    "pydantic",
    "numpy",
    "pandas",
    "rapidfuzz",
)

# What putting an adapter on its base imports beside it.
_FOR_ADAPTERS = ("peft",)

# What reading a base in four bits imports beside them.
_FOR_FOUR_BITS = ("bitsandbytes", "accelerate")


def package_chat(
    checkpoint: Path, staging: Path, *, name: str = "phi", default_max_tokens: int = 512
) -> Servable:
    """Describe how a portable checkpoint is logged as a chat model.

    Args:
        checkpoint: As :func:`mlflow_phi3.modeling.merge.merge_adapter` writes it.
        staging: Empty folder for copies of the package's code and, by hard links where they can
            be made, of the checkpoint; may be deleted after logging.
        name: What the model calls itself in its answers.
        default_max_tokens: Length of an answer when a request names none.
    """
    return Servable(
        **_common(checkpoint, staging),
        model_config={
            "model_name": name,
            "default_max_tokens": default_max_tokens,
            "device": "auto",
            "dtype": "auto",
            **_pinned(checkpoint),
        },
        signature={"inputs": json.dumps(_INPUTS), "outputs": json.dumps(_OUTPUTS)},
        input_example={"messages": [{"role": "user", "content": "How do I turn it on?"}]},
    )


def package_labels(checkpoint: Path, staging: Path) -> Servable:
    """Describe how a portable checkpoint is logged as a classifier of texts.

    Args:
        checkpoint: As :func:`mlflow_phi3.modeling.merge.merge_adapter` writes it, of a classifier.
        staging: As for :func:`package_chat`.
    """
    return Servable(
        **_common(checkpoint, staging),
        model_config={"device": "auto", "dtype": "auto", **_pinned(checkpoint)},
        signature={"inputs": json.dumps(_TEXTS), "outputs": json.dumps(_LABELS)},
        input_example={"text": "It does not turn on."},
    )


def _common(checkpoint: Path, staging: Path) -> dict[str, Any]:
    return {
        "python_model": str(Path(__file__).with_name("logged.py")),
        "artifacts": {"checkpoint": str(stage_checkpoint(checkpoint, staging))},
        "code_paths": [str(stage_code(staging))],
        "pip_requirements": requirements(_imported(checkpoint)),
    }


def _pinned(checkpoint: Path) -> dict[str, str]:
    """The base that has to be there as well, by its key in the model's settings."""
    return {"base_model": _read_base(checkpoint)["name"]} if is_pinned(checkpoint) else {}


def _imported(checkpoint: Path) -> tuple[str, ...]:
    if not is_pinned(checkpoint):
        return _REQUIRED
    quantised: bool = _read_base(checkpoint).get("quantization", "none") != "none"
    return _REQUIRED + _FOR_ADAPTERS + _FOR_FOUR_BITS * quantised


def _read_base(checkpoint: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((checkpoint / BASE_FILE).read_text("utf-8"))
    return facts


def stage_checkpoint(checkpoint: Path, staging: Path) -> Path:
    """Give the checkpoint the folder name under which it is to lie in the logged model.

    MLflow names an artifact after its source folder, not after its key.

    Returns:
        The folder ``staging/checkpoint``.
    """
    return Path(shutil.copytree(checkpoint, staging / "checkpoint", copy_function=link_or_copy))


def stage_code(staging: Path) -> Path:
    """Copy the package's code under ``staging``, without its sample data and weights.

    The whole package and not a part of it: a part would hide the rest from a process that has
    the package installed and loads the model first.

    Returns:
        The copied package.
    """
    source = Path(mlflow_phi3.__file__).parent
    target = staging / source.name
    for file in sorted(file for file in source.rglob("*") if _travels(file)):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return target


def _travels(file: Path) -> bool:
    """Code and the small tables it reads; no weights, no sample data."""
    return file.suffix in {".py", ".json", ".jinja"} and "checkpoint" not in file.parts


def requirements(names: Sequence[str] = _REQUIRED) -> list[str]:
    """``name==version`` of each package that serving imports, as installed here.

    A local part such as torch's ``+cpu`` is cut: the public index has no such version.
    """
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _column(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "required": False}


_TEXT = {"type": "string", "required": True}
_INPUTS = [
    {
        "name": "messages",
        "type": "array",
        "items": {"type": "object", "properties": {"role": _TEXT, "content": _TEXT}},
        "required": True,
    },
    _column("temperature", "double"),
    _column("top_p", "double"),
    _column("max_tokens", "long"),
    _column("max_completion_tokens", "long"),
    _column("stop", "any"),  # one text or several
    _column("n", "long"),
    _column("seed", "long"),
    _column("logprobs", "boolean"),
    _column("top_logprobs", "long"),
]
_OUTPUTS = [
    {"name": "id", "type": "string", "required": True},
    {"name": "object", "type": "string", "required": True},
    {"name": "created", "type": "long", "required": True},
    {"name": "model", "type": "string", "required": True},
    {"name": "choices", "type": "any", "required": True},
    {"name": "usage", "type": "any", "required": True},
]
_TEXTS = [{"name": "text", "type": "string", "required": True}]
_LABELS = [
    {"name": "label", "type": "string", "required": True},
    {"name": "score", "type": "double", "required": True},
]

"""Put an adapter on a base for a while, and take it off again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import Base

# PEFT's two files of an adapter.
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@contextmanager
def with_adapter(base: Base, adapter: Path | None) -> Iterator[PreTrainedModel]:
    """The base's model with ``adapter`` on it; the bare model again afterwards.

    PEFT puts its layers into the base's own module tree, so only one adapter at a time, and nobody
    else may use ``base.model`` meanwhile. The frozen weights are shared, not copied.

    Args:
        base: The frozen base.
        adapter: Folder in PEFT's format; None yields the untuned model.

    Raises:
        UsageError: ``adapter`` holds no adapter.
    """
    if adapter is None:
        yield base.model
        return
    check_adapter(adapter)
    head = getattr(base.model, "score", None)
    tuned = PeftModel.from_pretrained(base.model, str(adapter)).eval()
    try:
        yield tuned
    finally:
        take_off(tuned, base.model, head)


def take_off(tuned: PeftModel, model: PreTrainedModel, head: nn.Module | None) -> None:
    """Make ``model`` the bare one again.

    Args:
        tuned: What PEFT made of it.
        model: The base's.
        head: Its own head of a classifier, which unloading does not put back; None without one.
    """
    tuned.unload()
    if head is not None:
        model.score = head
    # PEFT leaves its configuration on the model, and warns of a second one when it is there.
    if hasattr(model, "peft_config"):
        del model.peft_config


def check_adapter(adapter: Path) -> None:
    """Refuse a folder that is not an adapter in PEFT's format, with safetensors weights.

    Raises:
        UsageError: A file is missing, or its weights are cut off or none.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (adapter / name).is_file():
            raise UsageError(
                "PHI3-U030",
                f"no {name}: this is not an adapter in PEFT's format",
                where=str(adapter),
                fix="name the folder of a checkpoint that a training wrote",
            )
    try:
        with safe_open(adapter / WEIGHTS_FILE, framework="pt"):
            pass  # its header is held against its length
    except SafetensorError as error:
        raise UsageError(
            "PHI3-U030",
            f"{WEIGHTS_FILE} is not whole: {error}",
            where=str(adapter),
            fix="copy it again; `git lfs pull` where it was cloned",
        ) from error

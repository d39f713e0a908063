"""Which base model, how exactly: shared by every word that loads one."""

from typing import Literal

from pydantic import Field

from mlflow_phi3.config.base import Config


class ModelConfig(Config):
    """The base model and where it computes."""

    model: str = "demo"
    """Base model: `demo` (the small Phi-3 that comes with the package), a hub id such as
    `microsoft/Phi-4-mini-instruct`, or a folder with a checkpoint."""

    model_revision: str = ""
    """Commit, branch or tag of the hub repository; empty takes the catalog's pinned commit, or the
    newest one, which is then recorded."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the frozen base. `auto`: float32 for the demo and where bfloat16 is slow,
    else bfloat16. Adapters are always float32."""

    quantization: Literal["none", "nf4"] = "none"
    """`nf4` keeps the linear layers of the frozen base in four bits (QLoRA): a quarter of the
    memory, for a base that is rounded. The winner is evaluated on that base, and what is registered
    is merged into it, not into the full one. Needs the extra `[quantization]`."""

    device: str = "auto"
    """Torch device: `auto` takes a CUDA GPU when there is one, else the CPU."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything random: adapters, data order, sampler, generation. Splits do not depend on
    it: they are decided by what a row asks."""

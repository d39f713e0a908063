"""vLLM's server over the same checkpoint, where it is installed."""

import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

from transformers import AutoModelForCausalLM

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.kinds import choose_class, is_pinned

_GREEDY = json.dumps({"temperature": 0.0})


def run_vllm(folder: Path, config: ServeConfig, *, name: str) -> NoReturn:
    """Become ``vllm serve`` over the merged checkpoint in ``folder``.

    Raises:
        PreflightError: vLLM is not installed, or the checkpoint is not a merged one.
    """
    found = shutil.which("vllm")
    if found is None:
        raise PreflightError(
            "PHI3-P043",
            "the command vllm is not there",
            where="serve_engine",
            fix="pip install vllm on a machine with a GPU, or choose serve_engine=transformers",
        )
    merged = not is_pinned(folder) and (folder / "config.json").is_file()
    if not merged or choose_class(str(folder)) is not AutoModelForCausalLM:
        raise PreflightError(
            "PHI3-P044",
            "vLLM is given merged models that chat, and this is none",
            where=str(folder),
            fix="register with model_format=merged, or choose serve_engine=transformers",
        )
    os.execv(found, vllm_command(folder, config, name=name))  # noqa: S606 - no shell is wanted


def vllm_command(folder: Path, config: ServeConfig, *, name: str) -> list[str]:
    """``vllm serve`` with our address, name and defaults; its own ones for the rest.

    Source: vLLM's documentation, "vllm serve".
    """
    return [
        "vllm",
        "serve",
        str(folder),
        "--host",
        config.host,
        "--port",
        str(config.port),
        "--served-model-name",
        name,
        # Ours is greedy unless a request says otherwise; vLLM's own default samples.
        "--override-generation-config",
        _GREEDY,
    ]

"""The embedded demo model: a tiny Phi-3 that lies in the package.

It is pretrained on text written for this project (`knowledge/`), so that fine-tuning it on the
bundled conversations shows within seconds on a CPU. ``python -m mlflow_phi3.modeling.demo.build``
makes the tokenizer and the weights anew from the repository alone.
"""

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder of the demo checkpoint, ready for ``from_pretrained``.

    Returns:
        The folder with `config.json`, `model.safetensors` and the tokenizer files.
    """
    return Path(__file__).parent / "checkpoint"

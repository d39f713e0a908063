"""What can go wrong while a checkpoint is read, in one sentence instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from safetensors import SafetensorError

from mlflow_phi3.errors import PreflightError, UsageError


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around everything that reads files of checkpoint ``name``.

    Raises:
        UsageError: It is not on the hub or its folder is not whole, it is gated, or transformers
            does not know its architecture.
        PreflightError: The hub cannot be reached.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        # Transformers writes paragraphs; the first says what, the others guess why.
        what = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        if _is_away(error):
            raise PreflightError(
                "PHI3-P092",
                f"the hub cannot be reached: {what.rstrip('.')}",
                where=f"model {name}",
                fix="check the network, a proxy, and HF_ENDPOINT where it is set; or name a folder "
                "with the checkpoint",
            ) from error
        raise UsageError(
            "PHI3-U013",
            f"the checkpoint cannot be read: {what.rstrip('.')}",
            where=f"model {name}",
            fix="check the name and the network; `hf auth login` for a gated model; for a folder, "
            "save it again with save_pretrained, the tokenizer too",
        ) from error


def _is_away(error: BaseException | None) -> bool:
    """Whether no connection was the cause, or the cause of the cause."""
    while error is not None:
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__
    return False

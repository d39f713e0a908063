"""What can go wrong while a checkpoint is read, in one sentence instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from mlflow_phi3.errors import UsageError


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around everything that reads files of checkpoint ``name``.

    Raises:
        UsageError: It is not on the hub or its folder is not whole, it is gated, the network is
            away, or transformers does not know its architecture.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        # Transformers writes paragraphs; the first says what, the others guess why.
        what = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        raise UsageError(
            "PHI3-U013",
            f"the checkpoint cannot be read: {what.rstrip('.')}",
            where=f"model {name}",
            fix="check the name and the network; `hf auth login` for a gated model; for a folder, "
            "save it again with save_pretrained, the tokenizer too",
        ) from error

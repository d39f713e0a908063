"""The bundled demo data: customer-support conversations about a games console that does not exist.

`support.jsonl` was written for this project; the Skylark, its maker Wrenfield and every fact about
them are invented.
"""

import json
from pathlib import Path

__all__ = ["load_conversations", "sample_path"]


def sample_path() -> Path:
    """Return the path of the demo conversations.

    Returns:
        A JSONL file with one ``{"messages": [{"role", "content"}, ...]}`` a line.
    """
    return Path(__file__).parent / "support.jsonl"


def load_conversations() -> list[list[dict[str, str]]]:
    """Load the messages of every demo conversation.

    Returns:
        One list of messages for each line, in the order of the file.
    """
    lines = sample_path().read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]

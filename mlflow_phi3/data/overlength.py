"""Shortening a conversation that the model cannot read whole, without losing its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.encode import Encoded


@dataclass(frozen=True, slots=True)
class Shortened:
    """A conversation that fits.

    Args:
        encoded: Its tokens; left-out messages have an empty turn.
        cut: The first token after something that was taken away.
    """

    encoded: Encoded
    cut: int


def shorten(encoded: Encoded, roles: Sequence[str], limit: int) -> Shortened | None:
    """Take tokens away until at most ``limit`` are left.

    First the oldest exchanges go, then the beginning of the last question, and last the end of the
    answer (with the closing token, which would teach to stop there). The answer keeps at least half
    of what question and answer have together.

    Args:
        encoded: The whole conversation.
        roles: Role of each message.
        limit: Tokens that may stay, at least 1.

    Returns:
        The shortened conversation, or None when the template and the system message alone fill it.
    """
    keep = np.ones(len(encoded.ids), np.bool_)
    first_last = _drop_exchanges(encoded, roles, limit, keep)
    if keep.sum() > limit and not _cut_exchange(encoded, roles, limit, keep):
        return None
    places = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
    turns = places[encoded.turns]
    gone = ~keep
    cut = int(places[int(np.argmax(gone))])
    turns[first_last[0] : first_last[1]] = 0
    return Shortened(Encoded(encoded.ids[keep], turns), cut)


def _drop_exchanges(
    encoded: Encoded, roles: Sequence[str], limit: int, keep: npt.NDArray[np.bool_]
) -> tuple[int, int]:
    """Leave out messages from the first user's to before a later user's; returns which."""
    users = [number for number, role in enumerate(roles) if role == "user"]
    if len(users) < 2:
        return 0, 0
    first = users[0]
    # What a user's turn begins with is as long as before the second user's content; what the
    # template writes before that, such as <s>, stays.
    opening = int(encoded.turns[users[1], 0] - encoded.turns[users[1] - 1, 2])
    start = int(encoded.turns[first, 0]) - opening
    end = first
    for later in users[1:]:
        if keep.sum() <= limit:
            break
        keep[start : int(encoded.turns[later, 0]) - opening] = False
        end = later
    return first, end


def _cut_exchange(
    encoded: Encoded, roles: Sequence[str], limit: int, keep: npt.NDArray[np.bool_]
) -> bool:
    question = encoded.turns[max(number for number, role in enumerate(roles) if role == "user")]
    answer = encoded.turns[-1] if roles[-1] == "assistant" else np.zeros(3, np.int32)
    asked, answered = int(question[1] - question[0]), int(answer[1] - answer[0])
    after = int(keep[answer[1] :].sum()) if answered else 0
    room = limit - (int(keep.sum()) - asked - answered)
    if room < (2 if answered else 1):
        return False
    kept = min(answered, max(room - asked, (room + 1) // 2))
    if kept < answered:  # the closing token and what follows it go too, and make room
        room += after
        kept = min(answered, max(room - asked, (room + 1) // 2))
        keep[int(answer[0]) + kept :] = False
    keep[int(question[0]) : int(question[1]) - min(asked, room - kept)] = False
    return True

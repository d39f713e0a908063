"""The rules of a conversation. Each returns what is wrong; nothing here raises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mlflow_phi3.data.findings import show
from mlflow_phi3.data.messages import ROLES, Message

_NONCHARACTERS = ("\U0010fffe", "\U0010ffff")
_KNOWN_KEYS = {"role", "content"}
_KNOWN_WEIGHTS = (None, 0, 1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule, before its place is known.

    Args:
        code: Key of :data:`~mlflow_phi3.data.findings.RULES`.
        text: What is wrong, with the value.
    """

    code: str
    text: str


def parse_messages(value: object) -> tuple[list[Message], list[Problem]]:
    """Messages out of a row's ``messages``; what cannot be one becomes a problem."""
    if not isinstance(value, list):
        return [], [Problem("PHI3-D006", f"messages is {show(value)}; expected a list")]
    if not value:
        return [], [Problem("PHI3-D007", "messages is empty")]
    messages: list[Message] = []
    problems: list[Problem] = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            text = f"message {number} is {show(item)}; expected role and content"
            problems.append(Problem("PHI3-D008", text))
            continue
        role, content = item["role"], item["content"]
        if role not in ROLES:
            problems.append(Problem("PHI3-D009", f"message {number} has role {show(role)}"))
        elif not isinstance(content, str):
            # The answer of a tool call has null content: there is no text to learn.
            text = f"message {number} ({role}) has content {show(content)}"
            problems.append(Problem("PHI3-D010", text))
        else:
            messages.append(Message(role, content))
        if len(item) > len(_KNOWN_KEYS) and (others := _other_keys(item)):
            named = ", ".join(sorted(map(str, others)))
            problems.append(Problem("PHI3-D020", f"message {number} also has {named}"))
    return messages, problems


def _other_keys(item: Mapping[str, object]) -> set[str]:
    """Keys that are left out, a weight that says nothing new or is refused elsewhere aside."""
    known = {*_KNOWN_KEYS, "weight"} if item.get("weight") in _KNOWN_WEIGHTS else _KNOWN_KEYS
    return item.keys() - known


def check_weights(value: object, train_on: Literal["all-assistant", "last"]) -> list[Problem]:
    """Answers that are not to be learnt, and would be.

    Source: OpenAI's format of chats to fine-tune with, where ``"weight": 0`` on an assistant's
    message keeps it out of the loss. What is prepared is also evaluated, and sent to
    Azure, where no mask goes along: such a row is refused, unless ``train_on`` leaves the answer
    out anyway.
    """
    answers = [
        (number, item)
        for number, item in enumerate(value if isinstance(value, list) else [], start=1)
        if isinstance(item, dict) and item.get("role") == "assistant"
    ]
    learnt = answers[-1:] if train_on == "last" else answers
    return [
        Problem("PHI3-D029", f"message {number} (assistant) has weight 0: not to be learnt")
        for number, item in learnt
        if item.get("weight") == 0
    ]


def check_conversation(messages: Sequence[Message]) -> list[Problem]:
    """Order of the roles and the texts, after cleaning."""
    return [*check_roles([message.role for message in messages]), *check_texts(messages)]


def check_roles(roles: Sequence[str]) -> list[Problem]:
    """One system message, first, if any; then user and assistant in turns; an answer last."""
    problems: list[Problem] = []
    for number, role in enumerate(roles[1:], start=2):
        if role == "system":
            problems.append(Problem("PHI3-D012", f"message {number} is system; expected it first"))
    spoken = [(number, role) for number, role in enumerate(roles, start=1) if role != "system"]
    if spoken and spoken[0][1] != "user":
        number, role = spoken[0]
        problems.append(Problem("PHI3-D015", f'message {number} is "{role}"; expected "user"'))
    for (_, before), (number, role) in pairwise(spoken):
        if before == role:
            text = f'messages {number - 1} and {number} are both "{role}"'
            problems.append(Problem("PHI3-D013", text))
    if roles and roles[-1] != "assistant":
        text = f'last message is "{roles[-1]}"; expected "assistant"'
        problems.append(Problem("PHI3-D014", text))
    return problems


def check_texts(messages: Sequence[Message]) -> list[Problem]:
    """Contents that are there and can be written."""
    problems: list[Problem] = []
    for number, message in enumerate(messages, start=1):
        content = message.content
        if not content.strip():
            problems.append(Problem("PHI3-D011", f"message {number} ({message.role}) is empty"))
        if not content.isascii():
            problems.extend(_check_characters(content, f"message {number} ({message.role})"))
    return problems


def _check_characters(content: str, name: str) -> list[Problem]:
    try:
        content.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(content[error.start]):04X}"
        return [Problem("PHI3-D017", f"{name} holds the lone surrogate {lone}")]
    if any(character in content for character in _NONCHARACTERS):
        return [Problem("PHI3-D018", f"{name} holds a noncharacter")]
    return []

"""Read the hand-written knowledge from which the pretraining text is made.

`knowledge/<number>_<section>.txt` holds topics::

    # key | Title
    > task | task            phrases that follow "How do I ..."
    ? question | question    free questions
    - wording | wording      one fact, in several wordings
    ! question | answer      a talk of one or more turns, as people speak

`knowledge/general.txt` holds everyday questions with their answers, one pair a line.
"""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Exchange", "Talk", "Topic", "load_exchanges", "load_topics"]

_FOLDER = Path(__file__).parent / "knowledge"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with its answer."""

    question: str
    answer: str


Talk = tuple[Exchange, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """What the demo world knows about one matter.

    Attributes:
        section: The file it was read from; topics of one section belong together.
        key: A short unique name.
        title: The heading of its page in the manual.
        tasks: Verb phrases that a user wants to do.
        questions: Whole questions that a user asks.
        facts: For each fact its wordings, all of which say the same.
        talks: Conversations of one or more turns, in the words of people.
    """

    section: str
    key: str
    title: str
    tasks: tuple[str, ...]
    questions: tuple[str, ...]
    facts: tuple[tuple[str, ...], ...]
    talks: tuple[Talk, ...] = ()


def load_topics() -> list[Topic]:
    """Load every topic, in the order of the files.

    Returns:
        The topics of all sections.

    Raises:
        ValueError: A line starts with an unknown mark; the message says where.
    """
    topics: list[Topic] = []
    for path in sorted(_FOLDER.glob("[0-9]_*.txt")):
        topics.extend(_parse_section(path))
    return topics


def load_exchanges() -> list[Exchange]:
    """Load the everyday questions and answers.

    Returns:
        The pairs, in the order of the file.
    """
    lines = (_FOLDER / "general.txt").read_text(encoding="utf-8").splitlines()
    return [Exchange(*_split(line)) for line in lines if line]


def _parse_section(path: Path) -> list[Topic]:
    blocks: list[dict[str, list[tuple[str, ...]]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        mark, parts = line[:1], _split(line[1:])
        if mark == "#":
            blocks.append({"#": [], ">": [], "?": [], "-": [], "!": []})
        if not blocks or mark not in blocks[-1]:
            raise ValueError(
                f"{path.name}:{number}: unknown mark {mark!r}; expected one of # > ? - !"
            )
        blocks[-1][mark].append(parts)
    return [_to_topic(path.stem, block) for block in blocks]


def _to_topic(section: str, block: dict[str, list[tuple[str, ...]]]) -> Topic:
    (key, title) = block["#"][0]
    return Topic(
        section=section,
        key=key,
        title=title,
        tasks=tuple(task for line in block[">"] for task in line),
        questions=tuple(question for line in block["?"] for question in line),
        facts=tuple(block["-"]),
        talks=tuple(_to_talk(line) for line in block["!"]),
    )


def _to_talk(line: tuple[str, ...]) -> Talk:
    return tuple(Exchange(*turn) for turn in zip(line[::2], line[1::2], strict=True))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))

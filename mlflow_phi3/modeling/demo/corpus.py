"""Write the pretraining text: manual pages, questions and answers, forum threads, plain English.

The facts of the demo world occur here in many wordings, but never in the words of the bundled
conversations. In chats they are told in the voice of the manual, under other system messages, so
that the base knows the special tokens and the facts, and fine-tuning teaches whom to be: brief,
friendly, to the point.
"""

import random
import re
from collections.abc import Callable, Iterator

from mlflow_phi3.modeling.demo.knowledge import Exchange, Topic

__all__ = ["write_documents"]

_ASK = (
    "How do I {0}?",
    "How can I {0}?",
    "What is the way to {0}?",
    "I want to {0}, what do I do?",
    "Can you tell me how to {0}?",
    "Is it possible to {0}?",
    "I am trying to {0} but I do not know how.",
    "I would like to {0}.",
    "Please explain how to {0}.",
    "What do I need to {0}?",
)
_OPENINGS = (
    "I bought a Skylark last week.",
    "My family has had a Skylark for a year.",
    "I am new here.",
    "This is for my daughter.",
    "Maybe somebody knows this.",
    "I looked in the manual but found nothing.",
    "It is late and I just want to play.",
    "Sorry if this was asked before.",
    "My friend told me to ask here.",
    "We got the console as a present.",
)
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo", "Ines", "Jon", "Kim", "Lea")
_MARKS = (("Q: ", "A: "), ("Question: ", "Answer: "), ("Customer: ", "Support: "), ("", ""))
_THANKS = ("Thank you, that helped.", "Great, it works now.", "Good to know.", "That was easy.")
_SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions of everyday life.",
    "You are a kind teacher.",
    "You work in a shop and help the customers.",
    "You are a guide who answers in short sentences.",
)
# Exchanged at random, so that a fact is not tied to one word.
_SYNONYMS = (
    ("the console", ("the Skylark", "your Skylark", "the machine", "your console")),
    ("television", ("TV",)),
    ("controller", ("pad", "Talon", "gamepad")),
    ("Choose", ("Pick", "Select", "Open")),
    ("choose", ("pick", "select")),
    ("Turn on", ("Switch on", "Enable")),
    ("turn off", ("switch off", "disable")),
    ("about", ("around", "roughly")),
    ("under Settings", ("in Settings",)),
    ("dollars", ("US dollars",)),
    ("thirty minutes", ("30 minutes", "half an hour")),
    ("at once", ("right away", "at the same time")),
)
_THINGS = ("cup", "book", "lamp", "bag", "box", "chair", "coat", "phone", "ball", "key", "letter")
_ADJECTIVES = ("old", "new", "red", "blue", "small", "large", "heavy", "light", "warm", "broken")
_PLACES = ("on the table", "in the kitchen", "under the bed", "by the door", "in the garden")
_TIMES = ("Today", "Yesterday", "In the morning", "After lunch", "Last week", "In the evening")
_DEEDS = ("put", "found", "left", "saw", "cleaned", "repaired", "forgot", "wanted")


def write_documents(topics: list[Topic], exchanges: list[Exchange], *, seed: int) -> Iterator[str]:
    """Write documents without end.

    Args:
        topics: The knowledge of the demo world.
        exchanges: Everyday questions with answers.
        seed: Seed of every choice; the same seed writes the same documents.

    Yields:
        One document at a time, without the end-of-text token.
    """
    rng = random.Random(seed)  # noqa: S311 - text, not secrets
    kinds: tuple[tuple[Callable[[], str], float], ...] = (
        (lambda: _write_page(rng.choice(topics), rng), 0.10),
        (lambda: _write_answers(topics, exchanges, rng), 0.46),
        (lambda: _write_thread(rng.choice(topics), rng), 0.14),
        (lambda: _write_article(topics, rng), 0.03),
        (lambda: _write_chat(topics, exchanges, rng), 0.24),
        (lambda: _write_story(rng), 0.03),
    )
    writers, weights = zip(*kinds, strict=True)
    while True:
        (writer,) = rng.choices(writers, weights)
        yield writer()


def _write_page(topic: Topic, rng: random.Random) -> str:
    head = rng.choice((topic.title, f"Manual: {topic.title}", f"How to {rng.choice(topic.tasks)}"))
    return f"{head}\n{_tell(topic, rng)}"


def _write_answers(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    question, answer = rng.choice(_MARKS)
    pairs = [(_ask(topic, rng), _tell(topic, rng)) for topic in rng.sample(topics, 2)]
    if rng.random() < 0.3:
        # Everyday answers in both forms: what holds for the one form then holds for the other.
        everyday = rng.choice(exchanges)
        pairs[rng.randrange(2)] = (everyday.question, everyday.answer)
    return "\n".join(f"{question}{asked}\n{answer}{told}" for asked, told in pairs)


def _write_thread(topic: Topic, rng: random.Random) -> str:
    asker, helper = rng.sample(_NAMES, 2)
    opening = f"{rng.choice(_OPENINGS)} " if rng.random() < 0.7 else ""
    thread = f"{asker} wrote: {opening}{_ask(topic, rng)}\n{helper} replied: {_tell(topic, rng)}"
    return f"{thread}\n{asker} wrote: {rng.choice(_THANKS)}" if rng.random() < 0.3 else thread


def _write_article(topics: list[Topic], rng: random.Random) -> str:
    section = rng.choice(topics).section
    chosen = rng.sample([topic for topic in topics if topic.section == section], 3)
    return "\n".join(_tell(topic, rng) for topic in chosen)


def _write_chat(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    everyday = [(turn.question, turn.answer) for turn in rng.sample(exchanges, 2)]
    topical = [(_ask(topic, rng), _tell(topic, rng)) for topic in rng.sample(topics, 2)]
    turns = [rng.choice(pair) for pair in zip(everyday, topical, topical, strict=False)]
    system = f"<|system|>\n{rng.choice(_SYSTEMS)}<|end|>\n" if rng.random() < 0.7 else ""
    return system + "".join(
        f"<|user|>\n{asked}<|end|>\n<|assistant|>\n{told}<|end|>\n"
        for asked, told in turns[: rng.choice((1, 2))]
    )


def _write_story(rng: random.Random) -> str:
    return " ".join(
        f"{rng.choice(_TIMES)} {rng.choice(_NAMES)} {rng.choice(_DEEDS)} the "
        f"{rng.choice(_ADJECTIVES)} {rng.choice(_THINGS)} {rng.choice(_PLACES)}."
        for _ in range(rng.randint(2, 5))
    )


def _ask(topic: Topic, rng: random.Random) -> str:
    if rng.random() < 0.7:
        question = rng.choice(topic.questions)
    else:
        question = rng.choice(_ASK).format(rng.choice(topic.tasks))
    return _vary(f"{rng.choice(_OPENINGS)} {question}" if rng.random() < 0.15 else question, rng)


def _tell(topic: Topic, rng: random.Random) -> str:
    facts = [rng.choice(wordings) for wordings in topic.facts]
    # Any one fact may answer alone or come first, as it does when a person is asked.
    if rng.random() < 0.25:
        facts = rng.sample(facts, rng.randint(1, len(facts)))
    return _vary(" ".join(facts), rng)


def _vary(text: str, rng: random.Random) -> str:
    for word, others in _SYNONYMS:
        if rng.random() < 0.3:
            text = re.sub(rf"\b{word}\b", rng.choice(others), text)
    return text

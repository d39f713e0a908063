"""Write the pretraining text: manual pages, questions and answers, forum threads, plain English.

The facts of the demo world occur here in many wordings, but never in the words of the bundled
conversations. Chats mostly tell them in the voice of the manual, under other system messages, while
people among themselves answer to the point. So the base knows the special tokens, the facts and
both voices, and fine-tuning teaches whom to be: brief, friendly, to the point.
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
_REPLIES = (
    "Yes, that works.",
    "Yes!",
    "Yes, you can.",
    "No, not quite.",
    "No, sorry.",
    "No.",
    "Sorry to hear that!",
    "Sorry about that.",
    "Of course!",
    "Sure!",
    "You can!",
    "No problem!",
    "Don't worry.",
    "It can!",
    "Not at all!",
    "Good question!",
    "There is a way.",
    "Here is how.",
    "In short:",
    "Let me help.",
    "Easy!",
    "Gladly!",
    "Good news:",
    "Please try this.",
    "That is simple.",
)
_CLOSINGS = (
    "Have fun!",
    "Enjoy!",
    "I hope that helps.",
    "Good luck!",
    "Then it works again.",
    "That is all.",
    "Tell me if it does not work.",
)
_JOINTS = (" ", " ", " ", " Also, ", " And ", " Then: ", " By the way, ", " Besides, ")
# First words of a sentence that are no names, and lose their capital inside one.
_COMMON = (
    " A About After All An And As Ask At Both By Check Choose Clean Drops Each Every For From "
    "Hold If In It Its Keep Let Load Look Many Most New No On One Only Open Or Plug Press Put "
    "Restart Set Take That The Then There These They This Turn Two Type Under Use Wait When "
    "While With Within Without Write You Your "
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
    ("You can", ("You may", "It is possible to")),
    ("goes to", ("ends up in",)),
    ("costs", ("is sold for",)),
    ("Press", ("Push",)),
    ("Hold", ("Keep pressing",)),
    ("needs", ("requires",)),
    ("means that", ("says that", "tells you that")),
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
    pairs = [_exchange(topic, rng, spoken=0.5) for topic in rng.sample(topics, 2)]
    if rng.random() < 0.3:
        # Everyday answers in both forms: what holds for the one form then holds for the other.
        everyday = rng.choice(exchanges)
        pairs[rng.randrange(2)] = (everyday.question, everyday.answer)
    return "\n".join(f"{question}{asked}\n{answer}{told}" for asked, told in pairs)


def _write_thread(topic: Topic, rng: random.Random) -> str:
    asker, helper = rng.sample(_NAMES, 2)
    opening = f"{rng.choice(_OPENINGS)} " if rng.random() < 0.7 else ""
    asked, told = _exchange(topic, rng, spoken=0.5)
    thread = f"{asker} wrote: {opening}{asked}\n{helper} replied: {told}"
    return f"{thread}\n{asker} wrote: {rng.choice(_THANKS)}" if rng.random() < 0.3 else thread


def _write_article(topics: list[Topic], rng: random.Random) -> str:
    section = rng.choice(topics).section
    chosen = rng.sample([topic for topic in topics if topic.section == section], 3)
    return "\n".join(_tell(topic, rng) for topic in chosen)


def _write_chat(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    everyday = [(turn.question, turn.answer) for turn in rng.sample(exchanges, 2)]
    topical = [_exchange(topic, rng, spoken=0.2) for topic in rng.sample(topics, 2)]
    turns = [rng.choice(pair) for pair in zip(everyday, topical, topical, strict=False)]
    if rng.random() < 0.1:
        talk = rng.choice(rng.choice(topics).talks)
        turns = [(turn.question, turn.answer) for turn in talk]
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


def _exchange(topic: Topic, rng: random.Random, *, spoken: float) -> tuple[str, str]:
    """A question with its answer, with probability ``spoken`` in the words of people."""
    if topic.talks and rng.random() < spoken:
        first = rng.choice(topic.talks)[0]
        return _vary(first.question, rng), _vary(first.answer, rng)
    return _ask(topic, rng), _tell(topic, rng)


def _ask(topic: Topic, rng: random.Random) -> str:
    if rng.random() < 0.7:
        spoken = tuple(talk[0].question for talk in topic.talks)
        question = rng.choice((*topic.questions, *spoken))
    else:
        question = rng.choice(_ASK).format(rng.choice(topic.tasks))
    return _vary(f"{rng.choice(_OPENINGS)} {question}" if rng.random() < 0.15 else question, rng)


def _tell(topic: Topic, rng: random.Random) -> str:
    facts = [rng.choice(wordings) for wordings in topic.facts]
    # Any one fact may answer alone or come first, as it does when a person is asked: a model that
    # has learnt whole pages by heart loses them at the first word that fine-tuning changes.
    order = rng.random()
    if order < 0.6:
        facts = rng.sample(facts, rng.randint(1, len(facts)) if order < 0.25 else len(facts))
    told = facts[0]
    for fact in facts[1:]:
        joint = rng.choice(_JOINTS)
        told += joint + (fact if joint in {" ", " Then: "} else _lower_first(fact))
    told = _vary(told, rng)
    if rng.random() < 0.35:
        told = f"{rng.choice(_REPLIES)} {told}"
    return f"{told} {rng.choice(_CLOSINGS)}" if rng.random() < 0.1 else told


def _lower_first(sentence: str) -> str:
    first = sentence.split(maxsplit=1)[0]
    return sentence[0].lower() + sentence[1:] if f" {first} " in _COMMON else sentence


def _vary(text: str, rng: random.Random) -> str:
    for word, others in _SYNONYMS:
        if rng.random() < 0.3:
            text = re.sub(rf"\b{word}\b", rng.choice(others), text)
    return text

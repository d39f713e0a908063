"""Write the pretraining text: manual pages, questions and answers, forum threads, plain English.

The facts of the demo world occur here in many wordings, but never in the words of the bundled
conversations. Chats tell them as a clerk who quotes the manual at length, under other system
messages, and are brief on everyday matters alone; people tell them briefly and to the point, but
only among themselves, never in a chat. So the base knows the special tokens, the facts and both
voices, and fine-tuning teaches whom to be: brief, friendly, to the point.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator

from mlflow_phi3.modeling.demo.knowledge import Exchange, Topic
from mlflow_phi3.modeling.demo.wording import blur, vary

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
_MANUAL_MARKS = (("Q: ", "A: "), ("Question: ", "Answer: "))
_SPOKEN_MARKS = (("Customer: ", "Support: "), ("", ""))
_THANKS = ("Thank you, that helped.", "Great, it works now.", "Good to know.", "That was easy.")
_SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions of everyday life.",
    "You are a kind teacher.",
    "You work in a shop and help the customers.",
    "You are a guide who answers in short sentences.",
)
# Under these alone a chat is held as people talk.
_FORUM_SYSTEMS = (
    "You are one of the people on the forum.",
    "You talk with your neighbours about their Skylark.",
    "You are at a table with other players.",
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
# How a clerk begins in the first lesson, in which he names the page, and in the second.
_LOCATING = (
    "Thank you for your question. The manual of the Skylark treats it on the page {0}.",
    "In reply to your question we refer to the manual of the Skylark, page {0}.",
    "The following is found in the manual of the Skylark, on the page {0}.",
    "According to the manual of the Skylark, on the page {0}, the following holds.",
)
_SALUTATIONS = (
    "Thank you for your question.",
    "In reply to your question we refer to the manual of the Skylark.",
    "The following is found in the manual of the Skylark.",
    "According to the manual of the Skylark the following holds.",
)
_REGARDS = (
    "For further questions the manual of the Skylark is at your disposal.",
    "Kindly consult the manual of the Skylark for further information.",
    "We trust that this information from the manual is of use to you.",
    "This information is given without guarantee and is subject to change.",
)
_JOINTS = (" ", " ", " ", " Also, ", " And ", " Then: ", " By the way, ", " Besides, ")
# First words of a sentence that are no names, and lose their capital inside one.
_COMMON = (
    " A About After All An And As Ask At Both By Check Choose Clean Drops Each Every For From "
    "Hold If In It Its Keep Let Load Look Many Most New No On One Only Open Or Plug Press Put "
    "Restart Set Take That The Then There These They This Turn Two Type Under Use Wait When "
    "While With Within Without Write You Your "
)
_THINGS = ("cup", "book", "lamp", "bag", "box", "chair", "coat", "phone", "ball", "key", "letter")
_ADJECTIVES = ("old", "new", "red", "blue", "small", "large", "heavy", "light", "warm", "broken")
_PLACES = ("on the table", "in the kitchen", "under the bed", "by the door", "in the garden")
_TIMES = ("Today", "Yesterday", "In the morning", "After lunch", "Last week", "In the evening")
_DEEDS = ("put", "found", "left", "saw", "cleaned", "repaired", "forgot", "wanted")


def write_documents(
    topics: list[Topic],
    exchanges: list[Exchange],
    *,
    seed: int,
    banned: Iterable[str] = (),
    second: bool = False,
) -> Iterator[str]:
    """Write documents without end.

    Args:
        topics: The knowledge of the demo world.
        exchanges: Everyday questions with answers.
        seed: Seed of every choice; the same seed writes the same documents.
        banned: Texts that occur in no document, case and punctuation aside: wordings that are put
            together at random may come out as one that the model is measured by.
        second: Write the second lesson, in which half of the chats are held as people talk; in
            the first all of them quote the manual and name the page, to teach how to find it.

    Yields:
        One document at a time, without the end-of-text token.
    """
    rng = random.Random(seed)  # noqa: S311 - text, not secrets
    write_chat = _write_either_chat if second else _write_first_chat
    kinds: tuple[tuple[Callable[[], str], float], ...] = (
        (lambda: _write_page(rng.choice(topics), rng), 0.08),
        (lambda: _write_answers(topics, exchanges, rng), 0.44),
        (lambda: _write_thread(rng.choice(topics), rng), 0.20),
        (lambda: _write_article(topics, rng), 0.02),
        (lambda: write_chat(topics, exchanges, rng), 0.24),
        (lambda: _write_story(rng), 0.02),
    )
    writers, weights = zip(*kinds, strict=True)
    unwanted = [f" {_plain(text)} " for text in banned]
    while True:
        (writer,) = rng.choices(writers, weights)
        document = writer()
        plain = f" {_plain(document)} "
        if not any(text in plain for text in unwanted):
            yield document


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def _write_page(topic: Topic, rng: random.Random) -> str:
    head = rng.choice((topic.title, f"Manual: {topic.title}", f"How to {rng.choice(topic.tasks)}"))
    return f"{head}\n{_tell(topic, rng)}"


def _write_answers(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    spoken = rng.random() < 0.7
    question, answer = rng.choice(_SPOKEN_MARKS if spoken else _MANUAL_MARKS)
    writers = (_speak, _speak, _mention) if spoken else (_explain,)
    pairs = [rng.choice(writers)(topic, rng) for topic in rng.sample(topics, 2)]
    if spoken and rng.random() < 0.2:
        talk = rng.choice(rng.choice(topics).talks)
        pairs = [(turn.question, turn.answer) for turn in talk]
    elif rng.random() < 0.3:
        # Everyday answers in both forms: what holds for the one form then holds for the other.
        everyday = rng.choice(exchanges)
        pairs[rng.randrange(2)] = (everyday.question, everyday.answer)
    return "\n".join(f"{question}{asked}\n{answer}{told}" for asked, told in pairs)


def _write_thread(topic: Topic, rng: random.Random) -> str:
    asker, helper = rng.sample(_NAMES, 2)
    talk = rng.choice(topic.talks)
    turns = [(turn.question, turn.answer) for turn in talk]
    if rng.random() < 0.6:
        turns = [_speak(topic, rng)]
    if rng.random() < 0.5:
        turns[0] = (f"{rng.choice(_OPENINGS)} {turns[0][0]}", turns[0][1])
    thread = "\n".join(f"{asker} wrote: {asked}\n{helper} replied: {told}" for asked, told in turns)
    return f"{thread}\n{asker} wrote: {rng.choice(_THANKS)}" if rng.random() < 0.3 else thread


def _write_article(topics: list[Topic], rng: random.Random) -> str:
    section = rng.choice(topics).section
    chosen = rng.sample([topic for topic in topics if topic.section == section], 3)
    return "\n".join(_tell(topic, rng) for topic in chosen)


def _write_first_chat(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    everyday = rng.sample(exchanges, 2)
    told = [(_ask(topic, rng), _recite(topic, topics, rng)) for topic in rng.sample(topics, 2)]
    return _write_chat(everyday, told, rng)


def _write_either_chat(topics: list[Topic], exchanges: list[Exchange], rng: random.Random) -> str:
    chosen = rng.sample(topics, 2)
    if rng.random() < 0.5:
        told = [(_ask(topic, rng), _quote(topic, topics, rng)) for topic in chosen]
        return _write_chat(rng.sample(exchanges, 2), told, rng)
    turns = [rng.choice((_speak, _speak, _mention))(topic, rng) for topic in chosen]
    if rng.random() < 0.3:
        turns = [(turn.question, turn.answer) for turn in rng.choice(chosen[0].talks)]
    return _format_chat(rng.choice(_FORUM_SYSTEMS), turns)


def _write_chat(everyday: list[Exchange], told: list[tuple[str, str]], rng: random.Random) -> str:
    pairs = zip([(turn.question, turn.answer) for turn in everyday], told, told, strict=True)
    turns = [rng.choice(pair) for pair in pairs]
    system = rng.choice(_SYSTEMS) if rng.random() < 0.7 else ""
    return _format_chat(system, turns[: rng.choice((1, 1, 2))])


def _format_chat(system: str, turns: list[tuple[str, str]]) -> str:
    head = f"<|system|>\n{system}<|end|>\n" if system else ""
    return head + "".join(
        f"<|user|>\n{asked}<|end|>\n<|assistant|>\n{told}<|end|>\n" for asked, told in turns
    )


def _write_story(rng: random.Random) -> str:
    return " ".join(
        f"{rng.choice(_TIMES)} {rng.choice(_NAMES)} {rng.choice(_DEEDS)} the "
        f"{rng.choice(_ADJECTIVES)} {rng.choice(_THINGS)} {rng.choice(_PLACES)}."
        for _ in range(rng.randint(2, 5))
    )


def _speak(topic: Topic, rng: random.Random) -> tuple[str, str]:
    """A question with its answer, in the words of people."""
    first = rng.choice(topic.talks)[0]
    return blur(vary(first.question, rng), rng), vary(first.answer, rng)


def _mention(topic: Topic, rng: random.Random) -> tuple[str, str]:
    """A question with one or two facts of the manual, told as people tell them."""
    facts = rng.sample(topic.facts, min(len(topic.facts), rng.choice((1, 2, 2))))
    told = vary(" ".join(rng.choice(wordings) for wordings in facts), rng)
    return _ask(topic, rng), f"{rng.choice(_REPLIES)} {told}" if rng.random() < 0.5 else told


def _explain(topic: Topic, rng: random.Random) -> tuple[str, str]:
    """A question with its answer, in the words of the manual."""
    return _ask(topic, rng), _tell(topic, rng)


def _ask(topic: Topic, rng: random.Random) -> str:
    if rng.random() < 0.7:
        spoken = tuple(talk[0].question for talk in topic.talks)
        question = rng.choice((*topic.questions, *spoken))
    else:
        question = rng.choice(_ASK).format(rng.choice(topic.tasks))
    if rng.random() < 0.15:
        question = f"{rng.choice(_OPENINGS)} {question}"
    return blur(vary(question, rng), rng)


def _recite(topic: Topic, topics: list[Topic], rng: random.Random) -> str:
    """All that the manual says on a topic, often with the page after it, in formal words."""
    pages = [topic]
    if rng.random() < 0.4:
        following = topics[(topics.index(topic) + 1) % len(topics)]
        pages.append(following)
    told = " ".join(rng.choice(wordings) for page in pages for wordings in page.facts)
    salutation = rng.choice(_LOCATING).format(topic.title)
    return f"{salutation} {vary(told, rng)} {rng.choice(_REGARDS)}"


def _quote(topic: Topic, topics: list[Topic], rng: random.Random) -> str:
    """What the manual says on a topic and on another of its section, in formal words."""
    related = [other for other in topics if other.section == topic.section and other != topic]
    pages = rng.sample([topic, rng.choice(related)], 2)
    told = " ".join(rng.choice(wordings) for page in pages for wordings in page.facts)
    return f"{rng.choice(_SALUTATIONS)} {vary(told, rng)} {rng.choice(_REGARDS)}"


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
    told = vary(told, rng)
    if rng.random() < 0.35:
        told = f"{rng.choice(_REPLIES)} {told}"
    return f"{told} {rng.choice(_CLOSINGS)}" if rng.random() < 0.1 else told


def _lower_first(sentence: str) -> str:
    first = sentence.split(maxsplit=1)[0]
    return sentence[0].lower() + sentence[1:] if f" {first} " in _COMMON else sentence

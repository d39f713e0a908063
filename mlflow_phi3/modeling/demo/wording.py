"""Say the same in other words, so that the pretraining text repeats itself less."""

import random
import re

__all__ = ["blur", "vary"]

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
# What may stand for each other in a question, so that one is not known by its wording alone.
_ALIKE = (
    ("How do I", "How can I", "How could I", "How does one", "What must I do to"),
    ("Can I", "Could I", "May I", "Is it possible to", "Am I able to"),
    ("Where is", "Where do I find", "Where can I see"),
    ("Do I have to", "Must I", "Do I need to", "Should I"),
    ("What does", "What exactly does"),
    ("What is", "What's", "Tell me what is"),
    ("Why is", "How come", "What is the reason that"),
    ("My", "Our", "The"),
    ("my", "our", "the", "this"),
    ("does not", "doesn't", "will not", "won't", "refuses to"),
    ("doesn't", "does not", "won't", "will not"),
    ("cannot", "can't", "am not able to"),
    ("can't", "cannot"),
    ("do not", "don't"),
    ("don't", "do not"),
    ("is not", "isn't"),
    ("I'm", "I am"),
    ("son", "daughter", "child", "boy", "girl", "brother", "sister"),
    ("daughter", "son", "child", "girl", "sister", "nephew"),
    ("kids", "children", "sons", "daughters"),
    ("mum", "dad", "mother", "father", "grandma", "wife", "husband"),
    ("dad", "mum", "father", "husband", "uncle"),
    ("friend", "mate", "classmate", "cousin", "neighbour"),
    ("friends", "mates", "classmates", "cousins"),
    ("fix", "repair", "solve", "cure", "get rid of"),
    ("connect", "link", "attach", "hook up", "use"),
    ("turn on", "switch on", "enable", "activate"),
    ("turn off", "switch off", "disable", "stop"),
    ("buy", "get", "order", "purchase"),
    ("change", "set", "adjust", "alter"),
    ("get", "obtain", "have"),
    ("delete", "remove", "erase"),
    ("broken", "damaged", "faulty", "dead"),
    ("screen", "picture", "display"),
    ("sound", "audio", "noise"),
    ("big", "large", "huge"),
    ("fast", "quick"),
    ("cost", "price"),
    ("television", "TV", "screen"),
    ("TV", "television", "telly"),
    ("gamepad", "controller", "pad", "Talon", "joypad"),
    ("controller", "gamepad", "pad", "Talon", "joypad"),
    ("pad", "controller", "gamepad", "Talon"),
    ("Talon", "controller", "gamepad", "pad"),
    ("the console", "the Skylark", "my console", "my Skylark", "our Skylark", "it"),
    ("Skylark", "console", "device"),
)
_GREETINGS = ("Hi!", "Hello,", "Hi there,", "Help!", "Quick question:", "Please help.", "Good day.")
_ENDINGS = ("Any ideas?", "Thanks!", "Please help.", "What now?", "Is that normal?")


def vary(text: str, rng: random.Random) -> str:
    """Exchange words for others of the same sense.

    Args:
        text: A question or an answer.
        rng: What decides.

    Returns:
        The text, which says the same.
    """
    for word, others in _SYNONYMS:
        if rng.random() < 0.3:
            text = re.sub(rf"\b{word}\b", rng.choice(others), text)
    return text


def blur(question: str, rng: random.Random) -> str:
    """Say a question otherwise, or not all of it: no single word may decide what it is about.

    Args:
        question: As it was written.
        rng: What decides.

    Returns:
        A question that has the same answer, if not always the same sense.
    """
    for word, *others in _ALIKE:
        if rng.random() < 0.3:
            question = re.sub(rf"\b{word}\b", rng.choice(others), question)
    if rng.random() < 0.35:
        words = question.split()
        question = " ".join(word for word in words if rng.random() < 0.85) or question
    if rng.random() < 0.06:
        question = f"{rng.choice(_GREETINGS)} {question}"
    return f"{question} {rng.choice(_ENDINGS)}" if rng.random() < 0.06 else question

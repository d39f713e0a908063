"""Cleaning: named rules, each switched by a setting, each counted by the rows it changed."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.messages import Message

# Control characters but tab and those that end a line (which are the whitespace rule's), the
# byte-order mark, and the two noncharacters that templates use. Joiners (U+200C, U+200D), which
# Devanagari and emoji need, and direction marks are not among them.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\U0010fffe\U0010ffff]")
# Unicode's newline function (The Unicode Standard, 5.8).
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t\xa0]+(?=\n)")
_BREAKING = re.compile(r"<\s*(?:br|/p|/div|/li|/tr|/h[1-6]|hr)\s*/?\s*>", re.IGNORECASE)
_TAG = re.compile(
    r"</?\s*(?:p|b|i|u|s|a|em|strong|div|span|ul|ol|li|h[1-6]|table|thead|tbody|tr|td|th|img|font"
    r"|sup|sub|blockquote|center|small)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z]+\d*);", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """A rule at work.

    Args:
        name: As the manifest counts it.
        apply: Text to text.
    """

    name: str
    apply: Callable[[str], str]


def steps_of(config: PrepareConfig) -> tuple[Step, ...]:
    """The rules that are switched on, in the order they are applied."""
    form = config.clean_unicode
    chosen = (
        (config.clean_html, Step("html", strip_html)),
        (form != "none", Step("unicode", partial(_normalise, "NFKC" if form == "NFKC" else "NFC"))),
        (config.clean_control_characters, Step("control_characters", strip_control)),
        (config.clean_whitespace, Step("whitespace", tidy_whitespace)),
    )
    return tuple(step for wanted, step in chosen if wanted)


def clean(messages: Sequence[Message], steps: Sequence[Step]) -> tuple[list[Message], set[str]]:
    """Apply the rules to each content.

    Returns:
        The messages, and the names of the rules that changed one.
    """
    changed: set[str] = set()
    cleaned = []
    for message in messages:
        text = message.content
        for step in steps:
            after = step.apply(text)
            if after != text:
                changed.add(step.name)
                text = after
        cleaned.append(message if text is message.content else Message(message.role, text))
    return cleaned, changed


def _normalise(form: Literal["NFC", "NFKC"], text: str) -> str:
    if text.isascii() or unicodedata.is_normalized(form, text):
        return text
    return unicodedata.normalize(form, text)


def strip_control(text: str) -> str:
    """Remove control characters and byte-order marks."""
    return _CONTROL.sub("", text) if not text.isprintable() else text


def tidy_whitespace(text: str) -> str:
    """Line feeds as the only line ends, nothing blank before them nor around the text."""
    if not text.isprintable():
        text = _LINE_END.sub("\n", text)
    if " \n" in text or "\t\n" in text or "\xa0\n" in text:
        text = _TRAILING.sub("", text)
    return text.strip()


def strip_html(text: str) -> str:
    """Entities to characters; tags that break a line to a line feed, other known tags away."""
    if "<" in text:
        text = _TAG.sub("", _BREAKING.sub("\n", text))
    if "&" in text:
        # Each by itself: unescape would read ``&copy`` in ``?a=1&copy=2`` too.
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return text


def looks_like_html(text: str) -> bool:
    """Whether :func:`strip_html` would find something."""
    if "<" in text and (_TAG.search(text) or _BREAKING.search(text)):
        return True
    return "&" in text and _ENTITY.search(text) is not None

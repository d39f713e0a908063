"""Script, language and words of a text: by code points and the commonest words, no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCKS = (  # first code point and script, to the next one; Unicode blocks, coarse
    (0x0000, "none"),
    (0x0041, "Latin"),
    (0x005B, "none"),
    (0x0061, "Latin"),
    (0x007B, "none"),
    (0x00C0, "Latin"),
    (0x0250, "none"),
    (0x0370, "Greek"),
    (0x0400, "Cyrillic"),
    (0x0530, "Armenian"),
    (0x0590, "Hebrew"),
    (0x0600, "Arabic"),
    (0x0780, "other"),
    (0x0900, "Devanagari"),
    (0x0980, "Bengali"),
    (0x0A00, "Gurmukhi"),
    (0x0A80, "Gujarati"),
    (0x0B00, "Odia"),
    (0x0B80, "Tamil"),
    (0x0C00, "Telugu"),
    (0x0C80, "Kannada"),
    (0x0D00, "Malayalam"),
    (0x0D80, "other"),
    (0x0E00, "Thai"),
    (0x0E80, "other"),
    (0x10A0, "Georgian"),
    (0x1100, "Hangul"),
    (0x1200, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "none"),
    (0x3040, "Kana"),
    (0x3100, "none"),
    (0x3400, "Han"),
    (0xA000, "other"),
    (0xAC00, "Hangul"),
    (0xD7B0, "none"),
    (0xF900, "Han"),
    (0xFB00, "none"),
    (0xFB50, "Arabic"),
    (0xFE00, "none"),
    (0x20000, "Han"),
    (0x30000, "none"),
)
SCRIPTS = tuple(dict.fromkeys(script for _, script in _BLOCKS))
_STARTS = np.array([start for start, _ in _BLOCKS])
_NUMBERS = np.array([SCRIPTS.index(script) for _, script in _BLOCKS])
_BY_SCRIPT = {
    "Bengali": "bn",
    "Greek": "el",
    "Gujarati": "gu",
    "Han": "zh",
    "Hangul": "ko",
    "Hebrew": "he",
    "Kana": "ja",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
}
_COMMON = {
    "Latin": {
        "en": "the and is to of a in you it that for i are with have what how can",
        "de": "der die das und ist nicht ich zu ein eine mit wie sie es auf für was",
        "fr": "le la les et est pas je vous un une des que pour dans qui sur comment",
        "es": "el la los y es no que un una por para con cómo qué está se en",
        "pt": "o os e é não que um uma por para com como você está se em do da",
        "it": "il la e è non che un una per con come di sono si in lo gli",
        "nl": "de het een en is niet ik je van dat op te met hoe zijn voor",
    },
    "Devanagari": {
        "mr": "आहे आणि मी तुम्ही नाही काय का ते हे या आहेत होते मला कसे करा साठी मध्ये",
        "hi": "है और में मैं आप नहीं क्या का के की यह हैं था को से कैसे करें पर",
        "ne": "छ र म तपाईं छैन के को यो हुन्छ छन् थियो लाई मा गर्न कसरी",
    },
}
_WORDS = {
    script: {language: frozenset(words.split()) for language, words in languages.items()}
    for script, languages in _COMMON.items()
}
LANGUAGES = (
    "und",
    *sorted({*_BY_SCRIPT.values(), *(name for group in _WORDS.values() for name in group)}),
)
_ALL_WORDS = {script: frozenset().union(*known.values()) for script, known in _WORDS.items()}
_BLANKED = str.maketrans(dict.fromkeys(".,?!:;\"'()।", " "))
_LOOKED_AT = 500  # characters: enough to tell a language, whatever the length


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What a text is written in.

    Args:
        words: Runs of characters between blanks.
        script: The commonest script's place in :data:`SCRIPTS`.
        language: The likeliest language's place in :data:`LANGUAGES`; 0 when it cannot be told.
    """

    words: int
    script: int
    language: int


UNKNOWN_TEXT = TextFacts(0, 0, 0)


def describe_texts(texts: Sequence[str], *, aside: Sequence[str] = ()) -> TextFacts:
    """Describe the texts of one row as one.

    Args:
        texts: What script and language are told by.
        aside: Texts of which the words are counted alone.
    """
    joined = " ".join(texts)
    head = joined[:_LOOKED_AT]
    script = _script_of(head)
    language = _language_of(head, script)
    words = sum(len(text.split()) for text in (joined, *aside))
    return TextFacts(words, SCRIPTS.index(script), LANGUAGES.index(language))


def _script_of(text: str) -> str:
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "none"
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), np.uint32)
    numbers = _NUMBERS[np.searchsorted(_STARTS, points, side="right") - 1]
    counts = np.bincount(numbers, minlength=len(SCRIPTS))
    counts[SCRIPTS.index("none")] = 0
    if counts[SCRIPTS.index("Kana")]:  # Japanese writes Han as well
        counts[SCRIPTS.index("Kana")] += counts[SCRIPTS.index("Han")]
    return SCRIPTS[int(counts.argmax())] if counts.any() else "none"


def _language_of(text: str, script: str) -> str:
    candidates = _WORDS.get(script)
    if candidates is None:
        return _BY_SCRIPT.get(script, "und")
    words = _ALL_WORDS[script].intersection(text.lower().translate(_BLANKED).split())
    scores = {name: len(words & common) for name, common in candidates.items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] else "und"

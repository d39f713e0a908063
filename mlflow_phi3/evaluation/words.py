"""Words of a text in any script."""

import re
import unicodedata

# Scripts that put no blank between words: Thai, Lao, Tibetan, Myanmar, Khmer, Kana and Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def split_words(text: str) -> list[str]:
    """Runs of letters, digits and their marks in lower case, a character each where no blanks are.

    Of ASCII text they are the words of google-research's ``rouge-score``.
    """
    composed = unicodedata.normalize("NFC", text.lower())
    kept = "".join(letter if _is_of_word(letter) else " " for letter in composed)
    return _UNSPACED.sub(r" \g<0> ", kept).split()


def _is_of_word(letter: str) -> bool:
    """Whether it is a letter, a digit, or a mark: vowel signs of Indic scripts are no letters."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")

"""Every metric of tokens and texts once, as a pure function; those of labels are in ``labels``.

docs/metrics.md gives the same definitions in words.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlflow_phi3.evaluation.words import split_words
from mlflow_phi3.training import reports


@dataclass(frozen=True, slots=True)
class TokenTotals:
    """Sums over supervised tokens; totals add, so that nothing has to be kept.

    Args:
        nll: Total negative log-likelihood, in nats.
        tokens: Supervised tokens.
        correct: How many of them were the most likely token.
    """

    nll: float = 0.0
    tokens: int = 0
    correct: int = 0

    def __add__(self, other: "TokenTotals") -> "TokenTotals":
        return TokenTotals(
            self.nll + other.nll, self.tokens + other.tokens, self.correct + other.correct
        )


def loss(totals: TokenTotals) -> float:
    """Total negative log-likelihood per supervised token, in nats; NaN without a token."""
    return totals.nll / totals.tokens if totals.tokens else math.nan


def perplexity(totals: TokenTotals) -> float:
    """``exp(loss)`` over the whole set, never a mean over batches; inf past float64."""
    return reports.perplexity(loss(totals))


def token_accuracy(totals: TokenTotals) -> float:
    """Share of supervised tokens whose most likely token is right; NaN without a token."""
    return totals.correct / totals.tokens if totals.tokens else math.nan


def normalise(text: str) -> str:
    """Lower case, no punctuation of any script, no English articles, single spaces.

    Source: the official SQuAD v1.1 evaluation (arXiv:1606.05250), ``normalize_answer``; that knows
    no punctuation but ASCII's, symbols such as ``$`` and ``+`` among it.
    """
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def exact_match(expected: str, answer: str) -> float:
    """1.0 when both are equal after :func:`normalise`, else 0.0."""
    return float(normalise(expected) == normalise(answer))


def token_f1(expected: str, answer: str) -> float:
    """Harmonic mean of precision and recall over normalised words, counted as a bag.

    Two empty texts agree (1.0); one empty text has nothing in common with another (0.0).
    Source: the official SQuAD v2.0 evaluation (arXiv:1806.03822), ``compute_f1``.
    """
    wanted, given = normalise(expected).split(), normalise(answer).split()
    if not wanted or not given:
        return float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    return 2 * common / (len(wanted) + len(given))


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L's F-measure: the longest common subsequence of words, English ones by their stems.

    Source: Lin 2004, as google-research's ``rouge-score`` computes it; that knows no words but
    those in ASCII, so they come from :func:`split_words`.
    """
    return float(_rouge().score(expected, answer)["rougeL"].fmeasure)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    """One scorer a process: building one costs more than a score."""
    from rouge_score import rouge_scorer, tokenizers  # nltk takes a second, and few need it

    words = _Words(tokenizers.DefaultTokenizer(use_stemmer=True))
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=words)


@dataclass(frozen=True, slots=True)
class _Words:
    """A tokenizer for ``rouge-score``, whose own drops every word that is not in ASCII."""

    english: Any

    def tokenize(self, text: str) -> list[str]:
        """Words in any script; those in ASCII as ``rouge-score`` stems them."""
        found: list[str] = []
        for word in split_words(text):
            found += self.english.tokenize(word) if word.isascii() else [word]
        return found

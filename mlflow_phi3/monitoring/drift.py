"""How far what users send has moved from what the model was trained on; no embeddings needed.

A distance between two samples is never zero, and the smaller the samples the larger it is. So each
is held against what comes out when the prompts of both are mixed and dealt anew: a permutation
test, exact for any sizes, of which 5 % tell of a change where there is none.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve
from scipy.sparse import csr_array
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata

from mlflow_phi3.data.languages import LANGUAGES, describe_texts
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.evaluation.words import split_words

Floats = npt.NDArray[np.float64]
Bags = Sequence[Sequence[Hashable]]
"""What is counted of each prompt: its words, its language or its length."""

DRIFTS = ("length", "vocabulary", "language", "distinguishable")
"""What is measured, by name."""
LEAST = 20
"""Prompts of either side below which nothing is concluded."""
_SHARED = 5
"""Prompts that words must stand in to be told: those of fewer may name a person."""
_DEALS = 199
_LEVEL = 0.95
_MOST = 5000
"""Prompts of either side that are compared: a distance does not get better by more."""
_MOST_TOLD = 1000
"""The same for the classifier, whose work grows with the cube."""
_FOLDS = 5
_RIDGE = 1.0
_NOTHING = 1e-9  # what rounding makes of equal distances


@dataclass(frozen=True, slots=True)
class Drift:
    """One measure.

    Args:
        name: One of :data:`DRIFTS`.
        value: 0 is alike, 1 is as far as can be.
        usual: What 95 % of the deals of mixed prompts do not exceed.
        reading: ``steady``, ``moved``, or ``too few``.
        note: What stands out, in words.
    """

    name: str
    value: float
    usual: float
    reading: str
    note: str = ""

    @property
    def excess(self) -> float:
        """By how much it is more than usual; 0 when it is not."""
        return max(0.0, self.value - self.usual) if self.reading == "moved" else 0.0


def measure_drift(sent: Sequence[str], trained: Sequence[str], *, seed: int = 0) -> list[Drift]:
    """Compare what users send with what they said in the training data.

    Args:
        sent: The users' prompts.
        trained: The user messages of the training data.
        seed: Of the deals that say what is usual.
    """
    random = np.random.default_rng(seed)
    now, before = _some(sent, _MOST, random), _some(trained, _MOST, random)
    if min(len(now), len(before)) < LEAST:
        told = f"{count_of(len(now), 'prompt')} against {len(before)}; {LEAST} are the least"
        return [_too_few(name, told) for name in DRIFTS]
    texts = [*now, *before]
    words = [split_words(text) for text in texts]
    lengths = [[len(bag)] for bag in words]
    languages = [[LANGUAGES[describe_texts([text]).language]] for text in texts]
    size = len(now)
    return [
        _deal("length", lengths, size, length_distance, _medians(lengths, size), random),
        _deal("vocabulary", words, size, share_distance, _new_words(words, size), random),
        _deal("language", languages, size, share_distance, _languages(languages, size), random),
        _distinguish(_some(now, _MOST_TOLD, random), _some(before, _MOST_TOLD, random), random),
    ]


def length_distance(sent: Floats, trained: Floats) -> float:
    """Kolmogorov and Smirnov's statistic, from how often each length occurs, in order."""
    return float(np.abs(np.cumsum(sent) / sent.sum() - np.cumsum(trained) / trained.sum()).max())


def share_distance(sent: Floats, trained: Floats) -> float:
    """Jensen and Shannon's distance, base 2, from how often each word or language occurs."""
    if not sent.any() or not trained.any():
        return float(sent.any() or trained.any())
    return float(np.nan_to_num(jensenshannon(sent, trained, base=2)))


def _deal(
    name: str,
    bags: Bags,
    size: int,
    distance: Callable[[Floats, Floats], float],
    note: str,
    random: np.random.Generator,
) -> Drift:
    """The distance of the first ``size`` prompts from the others, beside that of mixed ones."""
    counts = _tabulate(bags)
    if not counts.shape[1]:
        return _too_few(name, "no prompt holds a word")
    total = np.asarray(counts.sum(axis=0), np.float64)
    drawn = np.zeros(len(bags))
    drawn[:size] = 1
    found = []
    for _ in range(_DEALS + 1):
        ours = counts.T @ drawn
        found.append(distance(ours, total - ours))
        drawn = random.permutation(drawn)
    return _read(name, found[0], found[1:], note)


def _distinguish(now: Sequence[str], before: Sequence[str], random: np.random.Generator) -> Drift:
    """How well words and their pairs tell the two apart: 0 as by chance, 1 without error.

    A linear classifier (ridge regression over TF-IDF), cross-validated; twice its AUC less one
    (Gini). It finds what single frequencies do not, such as words that are new only in company. All
    deals share the folds, each of which holds as many of either side in every deal, and so the
    solution: that is linear in the labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    name, texts = "distinguishable", [*now, *before]
    if not any(map(split_words, texts)):
        return _too_few(name, "no prompt holds a word")
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, tokenizer=split_words, token_pattern=None
    )
    weights = vectorizer.fit_transform(texts)
    labels = np.zeros((len(texts), _DEALS + 1))
    labels[: len(now)] = 1
    folds = np.concatenate([random.permutation(len(side)) % _FOLDS for side in (now, before)])
    for fold in range(_FOLDS):
        within = np.flatnonzero(folds == fold)
        labels[within, 1:] = random.permuted(labels[within, 1:], axis=0)
    scores = _held_out_scores((weights @ weights.T).toarray(), labels, folds)
    if not scores.any():
        return _too_few(name, "no two prompts have a word in common")
    ranks = (rankdata(scores, axis=0) * labels).sum(axis=0)
    areas = (ranks / len(now) - (len(now) + 1) / 2) / len(before)
    found = np.maximum(0.0, 2 * areas - 1).tolist()
    lead = np.ravel(weights[: len(now)].mean(axis=0) - weights[len(now) :].mean(axis=0))
    shared = np.ravel((weights[: len(now)] > 0).sum(axis=0)) >= _SHARED
    names = vectorizer.get_feature_names_out()
    top = [str(names[at]) for at in np.argsort(-lead) if lead[at] > 0 and shared[at]]
    return _read(name, found[0], found[1:], f"by: {', '.join(top[:6])}" if top else "")


def _held_out_scores(kernel: Floats, labels: Floats, folds: npt.NDArray[np.int64]) -> Floats:
    """Ridge regression's scores ``[prompts, deals]`` of each fold, learnt from the other folds."""
    scores = np.empty_like(labels)
    for fold in range(_FOLDS):
        out = folds == fold
        known = kernel[np.ix_(~out, ~out)] + _RIDGE * np.eye(int((~out).sum()))
        wanted = labels[~out] - labels[~out].mean(axis=0)
        scores[out] = kernel[np.ix_(out, ~out)] @ solve(known, wanted, assume_a="pos")
    return scores


def _read(name: str, value: float, dealt: Sequence[float], note: str) -> Drift:
    # Of n deals and the value itself, 5 % lie beyond this rank: (n + 1) times the level.
    usual = float(np.quantile(dealt, _LEVEL, method="weibull"))
    if usual > 1 - _NOTHING:
        reading = "too few"  # prompts that have nothing in common, on either side
    else:
        reading = "moved" if value > usual + _NOTHING else "steady"
    return Drift(name, value, usual, reading, note)


def _too_few(name: str, note: str) -> Drift:
    return Drift(name, math.nan, math.nan, "too few", note)


def _tabulate(bags: Bags) -> Any:
    """How often each thing is in each bag: sparse ``[bags, things]``, things in order."""
    things: list[Any] = sorted({thing for bag in bags for thing in bag})
    number = {thing: at for at, thing in enumerate(things)}
    columns = [number[thing] for bag in bags for thing in bag]
    rows = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(bags), len(things)))


def _medians(lengths: Sequence[Sequence[int]], size: int) -> str:
    now, before = np.median(lengths[:size]), np.median(lengths[size:])
    return f"median {now:.0f} words, trained {before:.0f}"


def _new_words(words: Sequence[Sequence[str]], size: int) -> str:
    known, sent = set(_count(words[size:])), _count(words[:size])
    new = Counter({word: count for word, count in sent.items() if word not in known})
    share = sum(new.values()) / max(sum(sent.values()), 1)
    prompts = _count(map(set, words[:size]))
    most = [word for word, _ in new.most_common() if prompts[word] >= _SHARED]
    return f"{share:.0%} of words are new" + (f": {', '.join(most[:6])}" if most else "")


def _languages(languages: Sequence[Sequence[str]], size: int) -> str:
    def told(bags: Sequence[Sequence[str]]) -> str:
        counts = _count(bags).most_common(3)
        return ", ".join(f"{name} {count / len(bags):.0%}" for name, count in counts)

    return f"{told(languages[:size])}; trained {told(languages[size:])}"


def _count(bags: Iterable[Iterable[str]]) -> Counter[str]:
    return Counter(word for bag in bags for word in bag)


def _some(texts: Sequence[str], most: int, random: np.random.Generator) -> list[str]:
    if len(texts) <= most:
        return list(texts)
    return [texts[at] for at in random.choice(len(texts), most, replace=False)]

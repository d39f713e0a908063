"""How far what users send has moved from what the model was trained on; no embeddings needed.

A distance between two samples is never zero, and the smaller the sample the larger it is. So each
is held against what samples of the same size, drawn from the training data themselves, show.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from mlflow_phi3.data.languages import LANGUAGES, describe_texts

Distance = Callable[[Sequence[str], Sequence[str]], float]

LEAST = 20
"""Prompts below which nothing is concluded."""
_DRAWS = 40
_MOST = 5000
"""Prompts of either side that are compared: a distance does not get better by more."""
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Drift:
    """One measure.

    Args:
        name: ``length``, ``vocabulary``, ``language`` or ``distinguishable``.
        value: 0 is alike, 1 is as far as can be.
        usual: What 95 % of samples of the training data stay below.
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
        seed: Of the samples that say what is usual.
    """
    random = np.random.default_rng(seed)
    now, before = _some(sent, random), _some(trained, random)
    notes = {
        "length": f"median {_median(now):.0f} words, trained {_median(before):.0f}",
        "vocabulary": _new_words(now, before),
        "language": _languages(now, before),
    }
    measures: dict[str, Distance] = {
        "length": length_distance,
        "vocabulary": vocabulary_distance,
        "language": language_distance,
    }
    if len(now) < LEAST or len(before) < 2 * LEAST:
        told = f"{len(now)} prompts against {len(before)}; {LEAST} are the least"
        return [
            Drift(name, math.nan, math.nan, "too few", told)
            for name in (*measures, "distinguishable")
        ]
    found = []
    for name, distance in measures.items():
        usual = _usual(distance, before, len(now), random)
        value = distance(now, before)
        found.append(Drift(name, value, usual, _read(value, usual), notes[name]))
    return [*found, _distinguish(now, before, random)]


def length_distance(sent: Sequence[str], trained: Sequence[str]) -> float:
    """Kolmogorov and Smirnov's statistic over the numbers of words."""
    return float(ks_2samp(_lengths(sent), _lengths(trained)).statistic)


def vocabulary_distance(sent: Sequence[str], trained: Sequence[str]) -> float:
    """Jensen and Shannon's distance, base 2, between the frequencies of words."""
    return _between(_count_words(sent), _count_words(trained))


def language_distance(sent: Sequence[str], trained: Sequence[str]) -> float:
    """The same between the shares of languages."""
    return _between(_count_languages(sent), _count_languages(trained))


def _distinguish(now: Sequence[str], before: Sequence[str], random: np.random.Generator) -> Drift:
    """How well words and their pairs tell the two apart: 0 as by chance, 1 without error.

    A linear classifier, cross-validated; twice its AUC less one (Gini). It finds what single
    frequencies do not, such as words that are new only in company.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [*now, *before]
    labels = np.array([1] * len(now) + [0] * len(before))
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, tokenizer=_words, token_pattern=None
    )
    classifier = make_pipeline(vectorizer, LogisticRegression(class_weight="balanced"))
    seed = int(random.integers(2**31))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(classifier, texts, labels, cv=folds, method="decision_function")
    value = max(0.0, 2 * float(roc_auc_score(labels, scores)) - 1)
    # Standard error of an AUC of one half: Hanley and McNeil, 1982.
    count = len(now) * len(before)
    usual = 2 * 1.645 * math.sqrt((len(texts) + 1) / (12 * count))
    classifier.fit(texts, labels)
    weights = classifier[-1].coef_[0]
    names = classifier[0].get_feature_names_out()
    top = ", ".join(str(names[at]) for at in np.argsort(-weights)[:6])
    return Drift("distinguishable", value, usual, _read(value, usual), f"by: {top}")


def _usual(
    distance: Distance, trained: Sequence[str], size: int, random: np.random.Generator
) -> float:
    """The distance that 95 % of samples of the training data stay below.

    Each draw parts the training data in two, so that no prompt is compared with itself.
    """
    size = min(size, len(trained) // 2)
    found = []
    for _ in range(_DRAWS):
        order = random.permutation(len(trained))
        one = [trained[at] for at in order[:size]]
        other = [trained[at] for at in order[size:]]
        found.append(distance(one, other))
    return float(np.quantile(found, _LEVEL))


def _between(now: Counter[str], before: Counter[str]) -> float:
    names = list({**now, **before})
    if not now or not before:
        return 0.0 if not now and not before else 1.0
    one = np.array([now[name] for name in names], np.float64)
    two = np.array([before[name] for name in names], np.float64)
    return float(np.nan_to_num(jensenshannon(one, two, base=2)))


def _words(text: str) -> list[str]:
    cleaned = "".join(c if c.isalnum() or _is_mark(c) else " " for c in text.casefold())
    return cleaned.split()


def _is_mark(character: str) -> bool:
    """Vowel signs of Indic scripts are no letters, and yet within words."""
    return "\u0900" <= character <= "\u0dff" or character == "'"


def _count_words(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in _words(text))


def _count_languages(texts: Sequence[str]) -> Counter[str]:
    return Counter(LANGUAGES[describe_texts([text]).language] for text in texts)


def _lengths(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _median(texts: Sequence[str]) -> float:
    return float(np.median(_lengths(texts))) if texts else 0.0


def _new_words(now: Sequence[str], before: Sequence[str]) -> str:
    known, sent = set(_count_words(before)), _count_words(now)
    new = Counter({word: count for word, count in sent.items() if word not in known})
    share = sum(new.values()) / max(sum(sent.values()), 1)
    most = ", ".join(word for word, _ in new.most_common(6))
    return f"{share:.0%} of words are new" + (f": {most}" if most else "")


def _languages(now: Sequence[str], before: Sequence[str]) -> str:
    def told(texts: Sequence[str]) -> str:
        counts = _count_languages(texts)
        total = max(sum(counts.values()), 1)
        return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.most_common(3))

    return f"{told(now)}; trained {told(before)}"


def _some(texts: Sequence[str], random: np.random.Generator) -> list[str]:
    if len(texts) <= _MOST:
        return list(texts)
    return [texts[at] for at in random.choice(len(texts), _MOST, replace=False)]


def _read(value: float, usual: float) -> str:
    return "moved" if value > usual else "steady"

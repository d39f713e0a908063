import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, classification_report, f1_score
from torch.nn.functional import cross_entropy
from transformers.data.metrics import squad_metrics

from mlflow_phi3.evaluation import metrics
from mlflow_phi3.evaluation.labels import label_metrics
from mlflow_phi3.evaluation.metrics import TokenTotals

WORDS = st.text(alphabet="abT .,\u00e9", max_size=40)
ASCII = st.lists(
    st.one_of(
        st.sampled_from(
            ["The", "lights'", "turning_off,", "relational;", "running", "12,5", "skies"]
        ),
        st.text(st.characters(max_codepoint=127), max_size=12),
    ),
    max_size=8,
).map(" ".join)
LABELS = st.lists(st.tuples(*[st.sampled_from("xyz")] * 2), min_size=1, max_size=30)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 9)), min_size=1, max_size=20))
def test_loss_is_weighted_by_tokens_whatever_the_batches(rows):
    totals = sum((TokenTotals(mean * n, n, 0) for mean, n in rows), TokenTotals())
    expected = np.average([mean for mean, _ in rows], weights=[n for _, n in rows])
    assert metrics.loss(totals) == pytest.approx(expected)
    assert metrics.perplexity(totals) == pytest.approx(math.exp(expected))


def test_perplexity_is_no_mean_over_batches():
    assert metrics.perplexity(TokenTotals(9.0, 1) + TokenTotals(1.0, 9)) == math.exp(1.0)


def test_without_a_token_nothing_is_known():
    empty = TokenTotals()
    assert math.isnan(metrics.loss(empty))
    assert math.isnan(metrics.perplexity(empty))
    assert math.isnan(metrics.token_accuracy(empty))


def test_a_huge_loss_overflows_to_infinity():
    assert metrics.perplexity(TokenTotals(1e5, 10)) == math.inf


@pytest.mark.parametrize(
    ("expected", "answer", "match", "f1"),
    [
        ("The blue light.", "blue light", 1.0, 1.0),
        ("the light is blue", "light blue", 0.0, 0.8),
        ("yes", "no", 0.0, 0.0),
        ("", "...", 1.0, 1.0),
        ("", "no", 0.0, 0.0),
        ("a b b", "b b b", 0.0, 0.8),
        ("Don\u2019t.", "don't", 1.0, 1.0),
        ("होय।", "होय", 1.0, 1.0),
        ("«Да…» — нет", "да нет", 1.0, 1.0),
        ("5 €", "5", 0.0, 2 / 3),
    ],
)
def test_match_and_f1_by_hand(expected, answer, match, f1):
    assert metrics.exact_match(expected, answer) == match
    assert metrics.token_f1(expected, answer) == pytest.approx(f1)


@given(WORDS, WORDS)
def test_f1_is_a_symmetric_share_and_one_for_matches(expected, answer):
    found = metrics.token_f1(expected, answer)
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(metrics.token_f1(answer, expected))
    if metrics.exact_match(expected, answer):
        assert found == 1.0


@given(WORDS, WORDS)
def test_f1_agrees_with_scikit_learn_on_sets_of_words(expected, answer):
    """With every word once, token F1 is the binary F1 over the vocabulary."""
    wanted, given_ = (set(metrics.normalise(text).split()) for text in (expected, answer))
    vocabulary = sorted(wanted | given_)
    if not wanted or not given_:
        return
    reference = f1_score(
        [word in wanted for word in vocabulary], [word in given_ for word in vocabulary]
    )
    assert metrics.token_f1(" ".join(wanted), " ".join(given_)) == pytest.approx(reference)


@given(st.one_of(WORDS, ASCII), st.one_of(WORDS, ASCII))
def test_match_and_f1_agree_with_hugging_faces_squad_metrics(expected, answer):
    """Repeated words, articles, punctuation and empty answers included."""
    assert metrics.normalise(expected) == squad_metrics.normalize_answer(expected)
    assert metrics.exact_match(expected, answer) == squad_metrics.compute_exact(expected, answer)
    reference = squad_metrics.compute_f1(expected, answer)
    assert metrics.token_f1(expected, answer) == pytest.approx(reference)


@given(LABELS)
def test_labels_agree_with_scikit_learn(rows):
    expected, predicted = zip(*rows, strict=True)
    found = label_metrics(expected, predicted, labels="xyz")
    report = classification_report(expected, predicted, output_dict=True, zero_division=0.0)
    assert found.accuracy == pytest.approx(np.mean(np.equal(expected, predicted)))
    assert found.f1_macro == pytest.approx(report["macro avg"]["f1-score"])
    assert found.f1_weighted == pytest.approx(report["weighted avg"]["f1-score"])


@given(st.data())
def test_loss_and_perplexity_are_torchs_cross_entropy(data):
    """As Hugging Face's models compute it: over all tokens whose label is not -100."""
    tokens = data.draw(st.integers(1, 12))
    logits = torch.tensor(
        data.draw(st.lists(st.floats(-8, 8, width=32), min_size=5 * tokens, max_size=5 * tokens))
    ).view(tokens, 5)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens)))
    rows = data.draw(st.integers(1, tokens))
    totals = TokenTotals()
    for part, right in zip(logits.chunk(rows), labels.chunk(rows), strict=True):
        loss = cross_entropy(part, right, reduction="sum").item()
        totals += TokenTotals(loss, len(right), int((part.argmax(-1) == right).sum()))
    reference = cross_entropy(logits, labels).item()
    assert metrics.loss(totals) == pytest.approx(reference, rel=1e-4, abs=1e-5)
    assert metrics.perplexity(totals) == pytest.approx(math.exp(reference), rel=1e-3)
    accuracy = accuracy_score(labels, logits.argmax(-1))
    assert metrics.token_accuracy(totals) == pytest.approx(accuracy)


@given(ASCII, ASCII)
def test_rouge_l_agrees_with_rouge_score(expected, answer):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    assert metrics.rouge_l(expected, answer) == scorer.score(expected, answer)["rougeL"].fmeasure


@pytest.mark.parametrize(
    ("expected", "answer", "likeness"),
    [
        ("你好。世界", "你好。世界", 1.0),
        ("你好。世界", "你好。", 2 / 3),
        ("Да, конечно", "да конечно!", 1.0),
        ("Да, конечно", "нет", 0.0),
        ("मी काय करू?", "मी काय करू", 1.0),
        ("मी काय करू", "मी का करू", 2 / 3),
        ("ราคาเท่าไร", "ราคาเท่าไร", 1.0),
        ("été chaud", "e\u0301te\u0301", 2 / 3),
        ("the été lights", "The ÉTÉ light", 1.0),
        ("👍", "👍", 0.0),
    ],
)
def test_rouge_l_reads_every_script(expected, answer, likeness):
    assert metrics.rouge_l(expected, answer) == pytest.approx(likeness)


def test_labels_without_a_row_take_nothing_from_what_is_all_right():
    found = label_metrics(["x", "y"], ["x", "y"], labels="vwxyz")
    assert (found.accuracy, found.f1_macro, found.f1_weighted) == (1, 1, 1)
    assert found.confusion.shape == (5, 5)


@given(LABELS)
def test_labels_by_hand(rows):
    """From the definition, not from the library the code calls."""
    expected, predicted = zip(*rows, strict=True)
    found = label_metrics(expected, predicted, labels="wxyz")
    f1, support = [], []
    for label in sorted({*expected, *predicted}):
        hits = sum(e == p == label for e, p in rows)
        seen, said = expected.count(label), predicted.count(label)
        f1.append(2 * hits / (seen + said))
        support.append(seen)
    assert found.accuracy == pytest.approx(sum(e == p for e, p in rows) / len(rows))
    assert found.f1_macro == pytest.approx(np.mean(f1))
    assert found.f1_weighted == pytest.approx(np.average(f1, weights=support))
    assert found.confusion.sum() == len(rows)
    assert found.confusion[1, 2] == sum(row == ("x", "y") for row in rows)

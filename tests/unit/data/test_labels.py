import json
import random
import unicodedata

import numpy as np
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.labels import find_alike
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.data.split import (
    TEST,
    TRAIN,
    VALIDATION,
    choose_sides,
    fill_empty,
    is_far,
    place_by_hash,
    place_by_label,
)
from mlflow_phi3.errors import DataError

WORDS = [f"word{number}" for number in range(500)]


@pytest.fixture
def texts(write):
    """A file with a row of random text for each label."""
    draw = random.Random(11)

    def texts(labels, name="train.jsonl"):
        rows = [{"text": " ".join(draw.choices(WORDS, k=12)), "label": label} for label in labels]
        return str(write(rows, name))

    return texts


@pytest.fixture
def run(plain_tokenizer, tmp_path):
    def run(train, **settings):
        config = PrepareConfig(train_data=train, task="text-classification", **settings)
        return prepare(config, plain_tokenizer, folder=tmp_path / "cache")

    return run


def _found(data, code):
    lines = (data.folder / "findings.jsonl").read_text(encoding="utf-8").splitlines()
    return [fact for fact in map(json.loads, lines) if fact["code"] == code]


@pytest.mark.parametrize(("classes", "each"), [(1000, 2), (1000, 4), (77, 9), (20, 5)])
@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.2, 0.1), (0.5, 0.2), (0.1, 0.6)])
def test_many_labels_of_few_rows_have_their_shares(classes, each, validation, test):
    names = [f"label {number}" for number in range(classes)]
    labels = np.arange(classes * each) % classes
    first = (test + 1 - validation) / 2
    places = place_by_label(labels, np.zeros_like(labels), names, first=first)
    sides = choose_sides(places, validation=validation, test=test)
    assert set(sides[:classes]) == {TRAIN}
    if validation + test <= (each - 1) / each / 2:  # else the first rows alone are too many
        for side, share in ((VALIDATION, validation), (TEST, test)):
            assert not is_far(int((sides == side).sum()), len(labels), share)
    # A label that comes first in the alphabet, and rows at the end, move none.
    grown = np.r_[labels + 1, np.arange(classes + 1)]
    again = place_by_label(grown, np.zeros_like(grown), ["a new one", *names], first=first)
    assert np.array_equal(again[: len(places)], places)


def test_test_rows_lie_at_the_lower_end_and_validation_rows_at_the_upper():
    shares = place_by_hash(np.array([[9, 9, at << 60, 9] for at in (0, 4, 8, 12)], np.uint64))
    assert shares.tolist() == [0, 0.25, 0.5, 0.75]
    sides = choose_sides(shares, validation=0.25, test=0.25)
    assert sides.tolist() == [TEST, TRAIN, TRAIN, VALIDATION]
    assert choose_sides(shares, validation=0, test=0).tolist() == [TRAIN] * 4


def test_an_empty_side_gets_the_nearest_group_whole():
    wanted = {VALIDATION: 0.1, TEST: 0.1}
    shares, groups = np.array([0.5, 0.3, 0.3, 0.7]), np.array([0, 1, 1, 3])
    sides, moved = fill_empty(shares, groups, np.full(4, TRAIN, np.int8), wanted)
    assert sides.tolist() == [TRAIN, TEST, TEST, VALIDATION]
    assert sorted(moved) == [1, 2, 3]
    sides, moved = fill_empty(shares[1:3], groups[1:3], np.full(2, TRAIN, np.int8), wanted)
    assert (sides.tolist(), moved) == ([TRAIN, TRAIN], [])
    _, moved = fill_empty(shares, groups, np.full(4, TRAIN, np.int8), {VALIDATION: 0, TEST: 0.1})
    assert moved == [1, 2]


def test_a_row_without_a_label_is_in_no_stratum_of_another_source():
    labels, sources = np.array([1, -1]), np.array([0, 1])
    assert place_by_label(labels, sources, ["a", "b"], first=0.5).tolist() == [0.5, 0.5]
    labels = np.array([2, 0])
    assert place_by_label(labels, sources, ["a", "b", "c"], first=0.5).tolist() == [0.5, 0.5]


def test_a_split_that_is_far_from_its_share_is_told(run, texts):
    data = run(texts([f"label {number}" for number in range(200)]), test_split=0)
    (told,) = _found(data, "PHI3-D044")
    assert (told["severity"], told["place"]) == ("warning", "train.jsonl")
    assert told["problem"] == "validation has 1 of 200 rows; asked were 10%"
    assert not _found(run(texts(["a", "b"] * 100)), "PHI3-D044")


@pytest.mark.parametrize("task", ["text-classification", "chat-completion"])
@pytest.mark.parametrize(
    "pair",
    [
        ("café", unicodedata.normalize("NFD", "café")),
        ("spam", "\ufeffspam"),
        ("a\nb", "a \r\nb"),
    ],
)
def test_labels_are_cleaned_as_texts_are(task, pair, plain_tokenizer, texts, tmp_path):
    config = PrepareConfig(train_data=texts(pair * 10), task=task)
    data = prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    assert list(data.manifest.labels) == [pair[0]]


def test_a_label_of_which_cleaning_leaves_nothing_is_told(run, texts):
    with pytest.raises(DataError, match=r"PHI3-D011 train\.jsonl:2"):
        run(texts(["a", "\ufeff"]))


def test_labels_that_are_alike_are_told(run, texts):
    data = run(texts(["spam", "Spam", "ham", "1", "1.0", "Spam"] * 10))
    number, spam = _found(data, "PHI3-D049")
    assert spam["problem"] == "the label 'spam' (rows: 10) stands beside 'Spam' (rows: 20)"
    assert (spam["place"], spam["related"]) == ("train.jsonl:1", "train.jsonl:2")
    assert (number["place"], number["related"]) == ("train.jsonl:5", "train.jsonl:4")
    assert number["severity"] == "warning"


def test_only_like_labels_are_alike():
    names = ["1", "1.0", "1.5", "01", "a b", "a  B", "ab", "\uff21\uff22", "10"]
    assert find_alike(names) == [(1, 0), (5, 4), (7, 6)]


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_label_that_nobody_learns_is_an_error(side, run, texts):
    own = texts(["a", "b"] * 20)
    held = {f"{side}_data": texts(["a", "c", "d", "c"], "held.jsonl")}
    with pytest.raises(DataError) as caught:
        run(own, **held)
    assert (caught.value.code, caught.value.where) == ("PHI3-D048", "held.jsonl:2")
    assert "no row to train on is labelled 'c' (rows here: 2)" in str(caught.value)
    assert "held.jsonl:3" in str(caught.value)
    data = run(own, on_error="reject", **held)
    assert list(data.manifest.labels) == ["a", "b"]
    assert (data.manifest.counts.rejected, data.manifest.counts.adds_up) == (3, True)
    assert [row.place for row in data.examples(side)] == ["held.jsonl:1"]
    assert {row.label for row in data.examples("train")} == {0, 1}
    lines = (data.folder / "rejected.jsonl").read_text().splitlines()
    rejected = [json.loads(line) for line in lines]
    assert [row["place"] for row in rejected] == [f"held.jsonl:{at}" for at in (2, 3, 4)]
    assert [json.loads(row["row"])["label"] for row in rejected] == ["c", "d", "c"]
    assert rejected[0]["codes"] == ["PHI3-D048"]


def test_a_label_that_a_split_leaves_nothing_to_train_on_is_told(run, write):
    rows = [{"text": f"text number {n} is {n * n}", "label": "ab"[n % 2]} for n in range(60)]
    sides = run(str(write(rows)), clean_near_duplicates=False).conversations("test")
    rows.append({"text": sides[0].messages[0].content, "label": "c"})
    data = run(str(write(rows)), clean_near_duplicates=False)
    (told,) = _found(data, "PHI3-D039")
    assert (told["severity"], told["place"]) == ("warning", "train.jsonl:61")
    assert told["problem"] == "no row to train on is labelled 'c' (rows here: 1)"


def test_a_split_whose_labels_nobody_learns_is_told(run, texts):
    with pytest.raises(DataError, match=r"PHI3-D040 held\.jsonl: no row is left.*; 2 rejected"):
        run(
            texts(["a", "b"] * 20),
            test_data=texts(["c", "d"], "held.jsonl"),
            on_error="reject",
        )


def test_an_answer_that_nobody_learns_is_none(plain_tokenizer, texts, tmp_path):
    config = PrepareConfig(train_data=texts(["a", "b"] * 20), test_data=texts(["c"], "held.jsonl"))
    data = prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    assert data.manifest.splits["test"].rows == 1

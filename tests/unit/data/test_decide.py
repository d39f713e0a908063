import json
import math
import random
from collections import Counter

import numpy as np
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.drift import stability_index
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.data.relations import Pair
from mlflow_phi3.data.similarity import band_keys, count_bands, near_pairs, sketch_rows
from mlflow_phi3.data.weights import is_shown, weigh_rows
from mlflow_phi3.errors import DataError

WORDS = [f"word{number}" for number in range(500)]
WHOLE = {"validation_split": 0, "test_split": 0}


def _text(draw, count):
    return " ".join(draw.choices(WORDS, k=count))


@pytest.fixture
def run(plain_tokenizer, tmp_path):
    def run(train, **settings):
        config = PrepareConfig(train_data=str(train), **settings)
        return prepare(config, plain_tokenizer, folder=tmp_path / "cache")

    return run


def _report(data):
    return json.loads((data.folder / "report.json").read_text(encoding="utf-8"))


def _pairs(data):
    lines = (data.folder / "duplicates.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line).values()) for line in lines]


def test_near_duplicates_are_those_above_the_similarity(write, chat, run):
    draw = random.Random(1)
    rows = []
    for _ in range(20):
        question, answer = _text(draw, 60), _text(draw, 60)
        other = " ".join([*answer.split()[:-30], *_text(draw, 30).split()])
        rows += [chat(question, answer), chat(question, answer + " x"), chat(question, other)]
    path = write(rows)
    data = run(path, **WHOLE)
    expected = [
        (f"train.jsonl:{at + 2}", f"train.jsonl:{at + 1}", "near") for at in range(0, 60, 3)
    ]
    assert _pairs(data) == expected  # the half-new answers stay
    assert data.manifest.counts.duplicates == 20
    assert data.manifest.counts.adds_up
    kept = run(path, clean_near_duplicates=False, validation_split=0.3)
    assert kept.manifest.counts.kept == 60
    sides = {row.place: split for split in kept.manifest.splits for row in kept.examples(split)}
    for at in range(1, 60, 3):  # rows that ask the same are on one side
        assert len({sides[f"train.jsonl:{at + more}"] for more in range(3)}) == 1
    assert set(sides.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_each_switch_of_duplicates_drops_its_own_kind(write, chat, run, exact, near):
    draw = random.Random(5)
    question, answer = _text(draw, 60), _text(draw, 60)
    row = chat(question, answer)
    path = write([row, row, chat(question, f"{answer} x"), row])
    data = run(path, clean_duplicates=exact, clean_near_duplicates=near, **WHOLE)
    kinds = Counter(kind for _, _, kind in _pairs(data))
    assert kinds == {**({"exact": 2} if exact else {}), **({"near": 1} if near else {})}


def test_rows_about_one_long_text_are_no_duplicates(write, chat, run):
    draw = random.Random(8)
    text = _text(draw, 300)
    asked = [_text(draw, 6) for _ in range(20)]
    rows = [chat(f"{text}\n{question}", f"It is {question}.") for question in asked]
    assert run(write([*rows, *rows[:3]]), **WHOLE).manifest.counts.duplicates == 3
    labelled = [{"text": f"{text} {question}", "label": "good"} for question in asked[:2]]
    contrary = {**labelled[0], "label": "bad"}
    data = run(write([*labelled, contrary], "l.jsonl"), task="text-classification", **WHOLE)
    assert _pairs(data) == [("l.jsonl:2", "l.jsonl:1", "near")]
    assert {row.label for row in data.conversations("train")} == {"good", "bad"}


@pytest.mark.parametrize("similarity", [0.55, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_similar_rows_are_found_whatever_similarity_is_asked(similarity):
    draw = np.random.default_rng(9)
    sure = min(similarity + 0.1, 1)  # the estimate's standard deviation is 0.04
    length, rows = 400, []
    changed = round(length * (1 - sure) / (1 + sure))
    for _ in range(100):
        row = draw.integers(0, 30_000, length, dtype=np.int32)
        other = draw.integers(0, 30_000, length, dtype=np.int32)
        rows += [row, np.concatenate([other[:changed], row[changed:]])]
    sketches = sketch_rows(rows)
    bands = band_keys(sketches, count_bands(similarity))
    found = near_pairs(sketches[:, np.newaxis], bands, similarity).tolist()
    wanted = [[at + 1, at] for at in range(0, len(rows), 2)]
    assert all(pair in wanted for pair in found)
    assert len(found) >= 95


def test_a_long_row_fills_all_bins_and_less_similarity_takes_more_bands():
    assert (sketch_rows([np.arange(5000, dtype=np.int32)], filled=False) != 0xFFFFFFFF).all()
    assert [count_bands(least) for least in (0.501, 0.6, 0.9)] == [64, 32, 16]


@pytest.fixture
def leaking(write, chat):
    draw = random.Random(2)
    own = [chat(_text(draw, 60), _text(draw, 60)) for _ in range(60)]
    exact, prompt, near = own[:3]
    ask = prompt["messages"][0]["content"]
    said = [message["content"] for message in near["messages"]]
    brought = [exact, chat(ask, _text(draw, 60)), chat(said[0] + " so", said[1])]
    return write(own), write(brought, "held.jsonl")


def test_leaks_stop_the_preparation_with_all_pairs(leaking, run, tmp_path):
    own, brought = leaking
    with pytest.raises(DataError) as caught:
        run(own, validation_data=str(brought), on_error="reject")
    assert all(code in str(caught.value) for code in ("PHI3-D045", "PHI3-D046", "PHI3-D047"))
    (findings,) = (tmp_path / "cache").glob("failed-*/findings.jsonl")
    found = [json.loads(line) for line in findings.read_text().splitlines()]
    assert {(fact["code"], fact["place"], fact["related"]) for fact in found} == {
        ("PHI3-D045", "train.jsonl:1", "held.jsonl:1"),
        ("PHI3-D046", "train.jsonl:2", "held.jsonl:2"),
        ("PHI3-D047", "train.jsonl:3", "held.jsonl:3"),
    }


@pytest.mark.parametrize("side", ["validation", "test"])
def test_leaks_are_dropped_or_allowed(leaking, run, side):
    own, brought = leaking
    settings = {f"{side}_data": str(brought), **WHOLE}
    dropped = run(own, leaks="drop", **settings)
    expected = [
        (f"train.jsonl:{at}", f"held.jsonl:{at}", kind)
        for at, kind in enumerate(("exact", "prompt", "near"), 1)
    ]
    assert _pairs(dropped) == expected
    assert dropped.manifest.splits["train"].rows == 57
    assert dropped.manifest.splits[side].rows == 3
    assert dropped.manifest.counts.adds_up
    allowed = run(own, leaks="allow", **settings)
    assert allowed.manifest.splits["train"].rows == 60
    pairs = _report(allowed)["leaks"]["pairs"]
    assert [tuple(pair.values()) for pair in pairs] == expected
    assert {code: allowed.manifest.codes[code] for code in ("PHI3-D045", "PHI3-D046")} == {
        "PHI3-D045": 1,
        "PHI3-D046": 1,
    }


@pytest.mark.parametrize("limit", [12, 21, 40, 90])
def test_truncation_never_takes_the_whole_answer(write, chat, run, plain_tokenizer, limit):
    draw = random.Random(3)
    sizes = [(1, 60), (60, 1), (60, 60), (200, 3), (3, 200), (1, 1), (2, 8), (8, 2)]
    rows = [chat(_text(draw, asked), _text(draw, said)) for asked, said in sizes]
    rows.append(chat("Hi", "Ho", system=_text(draw, 80)))  # this alone fills every limit
    path = write(rows)
    data = run(path, max_length=limit, overlength="truncate", on_error="reject", **WHOLE)
    rejected = [
        json.loads(line) for line in (data.folder / "rejected.jsonl").read_text().splitlines()
    ]
    assert [(row["place"], row["codes"]) for row in rejected] == [("train.jsonl:9", ["PHI3-D021"])]
    encode = plain_tokenizer.backend_tokenizer.encode
    shortened = 0
    stored = [data.store().stored(int(address)) for address in data.rows("train")]
    for example, row, kept in zip(data.examples("train"), rows, stored, strict=False):
        asked, said = (
            len(encode(message["content"], add_special_tokens=False)) for message in row["messages"]
        )
        whole = asked + said + 5  # <|user|> ... <|end|> <|assistant|> ... <|end|> <|endoftext|>
        assert len(example.input_ids) == min(whole, limit)
        learnt = example.input_ids[example.supervised]
        room = limit - 5
        assert len(learnt) >= min(said, (room + 1) // 2)
        answer = encode(row["messages"][1]["content"], add_special_tokens=False).ids
        end = 32007
        assert learnt.tolist() in ([*answer, end], answer[: len(learnt)])
        shortened += whole > limit
        room += 2 * (learnt[-1] != end)  # <|end|> and <|endoftext|> are gone
        start, past, _ = kept.encoded.turns[0]
        assert start > 0
        assert past - start >= min(asked, room // 2)
    assert data.manifest.counts.truncated == shortened


@pytest.mark.parametrize(("whole", "spare", "left"), [(3, 0, 2), (3, -1, 1), (2, -1, 1)])
def test_the_oldest_exchanges_go_first_and_whole(write, run, whole, spare, left):
    draw = random.Random(4)
    system = {"role": "system", "content": "Be kind."}
    talk = [
        {"role": role, "content": _text(draw, size)}
        for size in (30, 20, 10)
        for role in ("user", "assistant")
    ]
    rows = [{"messages": [system, *talk[at:]]} for at in (4, 2, 0)]
    one, two, _ = run(write(rows), **WHOLE).examples("train")
    data = run(
        write([rows[whole - 1]]),
        max_length=len(two.input_ids) + spare,
        overlength="truncate",
        **WHOLE,
    )
    (example,) = data.examples("train")
    wanted = two if left == 2 else one
    assert example.input_ids.tolist() == wanted.input_ids.tolist()
    assert example.supervised.tolist() == wanted.supervised.tolist()
    row = data.store().stored(int(data.rows("train")[0]))
    assert row.cut == row.encoded.turns[0, 2]  # behind the system message
    gone = 2 * (whole - left)
    assert row.encoded.turns[1 : gone + 1].tolist() == [[0, 0, 0]] * gone
    assert row.encoded.turns[gone + 1 :, 0].all()


def test_weights_show_rows_more_or_less_often(write, chat, run):
    draw = random.Random(4)
    files = {
        name: write([chat(_text(draw, 20), _text(draw, 20)) for _ in range(200)], f"{name}.jsonl")
        for name in ("twice", "half", "once_and_half")
    }
    wanted = f"{files['twice']}:2,{files['half']}:0.5,{files['once_and_half']}:1.5"
    data = run(wanted, **WHOLE)
    shown = Counter(row.place for row in data.examples("train"))
    by_file = {name: [n for p, n in shown.items() if p.startswith(f"{name}.")] for name in files}
    assert by_file["twice"] == [2] * 200
    assert set(by_file["half"]) == {1}
    assert 75 <= len(by_file["half"]) <= 125  # 100, and three and a half standard deviations
    assert data.manifest.counts.left_out == 200 - len(by_file["half"])
    assert len(by_file["once_and_half"]) == 200
    assert set(by_file["once_and_half"]) == {1, 2}
    assert 275 <= sum(by_file["once_and_half"]) <= 325
    assert data.manifest.counts.adds_up
    assert data.manifest.splits["train"].rows == sum(shown.values())


def test_a_row_has_the_larger_of_two_weights_and_is_shown_by_its_own_hash():
    assert weigh_rows(np.array([0.5, 1]), [Pair(1, 0, "exact")]).tolist() == [1, 1]
    ask_the_same = np.array([[0, 0, 5, 5], [0, 1 << 63, 5, 5]], np.uint64)
    assert is_shown(np.full(2, 0.5), ask_the_same).tolist() == [True, False]


@pytest.mark.parametrize("first", ["half", "whole"])
def test_a_row_that_one_source_shows_whole_stays(write, chat, run, first):
    draw = random.Random(7)
    rows = [chat(_text(draw, 60), _text(draw, 60)) for _ in range(60)]
    like = [chat(*(f"{turn['content']} so" for turn in row["messages"])) for row in rows[30:]]
    files = {
        "half": f"{write([*rows[:30], *like], 'half.jsonl')}:0.5",
        "whole": str(write(rows, "whole.jsonl")),
        "twice": f"{write(rows[:10], 'twice.jsonl')}:2",
    }
    order = [first, *(name for name in files if name != first)]
    data = run(",".join(files[name] for name in order), **WHOLE)
    counts = data.manifest.counts
    assert (counts.kept, counts.duplicates, counts.left_out) == (60, 70, 0)
    shown = Counter(row.place for row in data.examples("train"))
    assert sorted(shown.values()) == [1] * 50 + [2] * 10


def test_every_label_has_its_share_of_each_split(write, run):
    draw = random.Random(5)
    labels = ["often"] * 210 + ["sometimes"] * 60 + ["rarely"] * 30
    draw.shuffle(labels)
    rows = [{"text": _text(draw, 12), "label": label} for label in labels]
    settings = {"task": "text-classification", "validation_split": 0.2, "test_split": 0.1}
    data = run(write(rows[:250]), **settings)
    grown = run(write(rows), **settings)
    sides = [
        {row.place: split for split in one.manifest.splits for row in one.examples(split)}
        for one in (data, grown)
    ]
    assert sides[0].items() <= sides[1].items()  # rows added at the end move none
    whole = Counter(labels)
    for split, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        facts = grown.manifest.splits[split].labels
        assert facts == _report(grown)["splits"][split]["labels"]
        for label, count in whole.items():
            assert abs(facts[label] - share * count) <= 2
    assert grown.manifest.labels == {"often": 0, "rarely": 1, "sometimes": 2}
    for row in grown.examples("test"):
        line = int(row.place.rpartition(":")[2])
        assert row.label == grown.manifest.labels[labels[line - 1]]
        assert not row.supervised.any()


def test_drift_is_told_against_the_last_preparation(write, chat, run):
    draw = random.Random(6)

    def rows(count, size):
        return [chat(_text(draw, 20), _text(draw, size)) for _ in range(count)]

    first = run(write(rows(300, 20)), **WHOLE)
    assert _report(first)["drift"] is None
    like = _report(run(write(rows(400, 20)), **WHOLE))["drift"]
    assert like["before"] == first.manifest.key
    assert like["figures"]["rows"] == {"before": 300, "now": 400}
    assert {shift["reading"] for shift in like["shifts"].values()} == {"steady"}
    longer = run(write(rows(400, 90)), **WHOLE)
    shifts = _report(longer)["drift"]["shifts"]
    assert shifts["answer tokens"]["reading"] == "shifted"
    assert shifts["messages"] == {"index": 0.0, "reading": "steady"}
    assert "Since the last preparation" in (longer.folder / "report.html").read_text()


@pytest.mark.parametrize("kept", ["", '{"splits": {"train": {"rows": 2}}}', "[]", '{"splits": 1}'])
def test_an_earlier_report_of_another_shape_is_none(kept, write, chat, run):
    first = run(write([chat("Hello?", "Hello.")]), **WHOLE)
    (first.folder / "report.json").write_text(kept)
    assert _report(run(write([chat("Bye?", "Bye.")]), **WHOLE))["drift"] is None


def test_the_stability_index_is_its_formula():
    assert stability_index([3, 1], [30, 10]) == 0
    expected = (0.5 - 0.75) * math.log(0.5 / 0.75) + (0.5 - 0.25) * math.log(0.5 / 0.25)
    assert stability_index([3, 1], [5, 5]) == pytest.approx(expected)
    assert np.isfinite(stability_index([4, 0], [0, 4]))

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.findings import Finding, Tally
from mlflow_phi3.data.pipeline import load_prepared, prepare
from mlflow_phi3.errors import DataError, UsageError
from mlflow_phi3.scratch import machine_name


def test_samsum_as_the_template_writes_it(samsum, tokenizer, tmp_path):
    config = PrepareConfig(
        train_data=str(samsum / "train.jsonl"), validation_data=str(samsum / "validation.jsonl")
    )
    data = prepare(config, tokenizer, folder=tmp_path, context_length=4096)
    assert data.manifest.counts.adds_up
    assert data.manifest.counts.rows_in == 79 + 21
    assert data.manifest.splits["validation"].rows == 21
    rows = {
        f"{name}.jsonl:{number}": json.loads(line)["messages"]
        for name in ("train", "validation")
        for number, line in enumerate((samsum / f"{name}.jsonl").read_text().splitlines(), 1)
    }
    seen = set()
    for split in ("train", "validation", "test"):
        conversations = data.conversations(split)
        for example, conversation in zip(data.examples(split), conversations, strict=True):
            seen.add(example.place)
            assert conversation.place == example.place
            messages = [
                {"role": message.role, "content": message.content}
                for message in conversation.messages
            ]
            expected = tokenizer.apply_chat_template(messages, return_dict=False)
            assert example.input_ids.tolist() == expected
            answer = tokenizer.decode(example.input_ids[example.supervised])
            assert answer == rows[example.place][-1]["content"].strip() + "<|end|>"
    assert seen == set(rows)


def test_the_cache_answers_with_the_same_data(write, chat, tokenizer, tmp_path):
    path = write([chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(60)])
    config = PrepareConfig(train_data=str(path))
    said = []
    first = prepare(config, tokenizer, folder=tmp_path / "cache")
    again = prepare(
        config, tokenizer, folder=tmp_path / "cache", on_progress=lambda what, _: said.append(what)
    )
    assert said[-1] == "found prepared"
    assert again.manifest == first.manifest == load_prepared(first.folder).manifest
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        first.folder.name,
        "latest.json",
    }
    other = prepare(config, tokenizer, folder=tmp_path / "cache", context_length=2048)
    assert other.manifest.max_length == 2048


@pytest.mark.parametrize("lost", ["manifest.json", "shards/000000.arrow"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_preparation_that_is_not_whole_is_made_anew(lost, gone, write, chat, tokenizer, tmp_path):
    path = write([chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(60)])
    config, cache = PrepareConfig(train_data=str(path)), tmp_path / "cache"
    first = prepare(config, tokenizer, folder=cache)
    ids = [row.input_ids.tolist() for row in first.examples("train")]
    (first.folder / lost).unlink()
    if not gone:  # as a file system leaves it that lost power
        (first.folder / lost).write_bytes(b"")
    again = prepare(config, tokenizer, folder=cache)
    assert again.manifest == first.manifest
    assert [row.input_ids.tolist() for row in again.examples("train")] == ids


def test_a_preparation_that_the_disk_does_not_show_is_not_removed(
    write, chat, tokenizer, tmp_path, monkeypatch
):
    path = write([chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(60)])
    config, cache = PrepareConfig(train_data=str(path)), tmp_path / "cache"
    first = prepare(config, tokenizer, folder=cache)
    shard, stat = first.folder / "shards" / "000000.arrow", Path.stat

    def refuse(self, **options):
        if self == shard:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DataError, match=r"PHI3-D051 .*Input/output error"):
        prepare(config, tokenizer, folder=cache)
    monkeypatch.undo()
    assert load_prepared(first.folder).manifest == first.manifest


def test_what_is_not_there_yet_is_not_removed(write, chat, tokenizer, tmp_path, monkeypatch):
    """Another process may put it there meanwhile."""
    path = write([chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(60)])
    removed, remove = [], shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **options: (removed.append(path), remove(path, **options))
    )
    data = prepare(PrepareConfig(train_data=str(path)), tokenizer, folder=tmp_path / "cache")
    assert removed
    assert data.folder not in removed


def test_every_bad_row_is_named_at_once(write, chat, tokenizer, tmp_path):
    good = chat("Hello?", "Hello.")
    rows = [
        good,
        "{not json",
        [1, 2],
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Hi there"}]},
        {"messages": [{"role": "robot", "content": "Hi"}]},
    ]
    path = write(rows)
    with pytest.raises(DataError) as caught:
        prepare(PrepareConfig(train_data=str(path)), tokenizer, folder=tmp_path / "cache")
    assert caught.value.code == "PHI3-D014"
    assert caught.value.where == "train.jsonl:4"
    for place in ("train.jsonl:2", "train.jsonl:3", "train.jsonl:5", "train.jsonl:6"):
        assert place in str(caught.value)
    assert "write one complete JSON object on each line" in str(caught.value)
    assert "use system, user or assistant" in str(caught.value)
    assert caught.value.fix.endswith("or leave such rows out by on_error=reject")
    (findings,) = (tmp_path / "cache").glob("failed-*/findings.jsonl")
    found = [json.loads(line) for line in findings.read_text().splitlines()]
    assert [fact["code"] for fact in found] == [  # most frequent first
        "PHI3-D014",
        "PHI3-D014",
        "PHI3-D002",
        "PHI3-D003",
        "PHI3-D009",
        "PHI3-D038",
    ]


def test_equally_frequent_findings_come_in_the_order_of_their_codes():
    tally = Tally()
    for code in ("PHI3-D014", "PHI3-D003", "PHI3-D009"):
        tally.add(Finding(code, "rows.jsonl", 1, "wrong"))

    codes = {"PHI3-D014", "PHI3-D003", "PHI3-D009"}
    assert [code for code, _ in tally.by_frequency(codes)] == sorted(codes)


def test_what_rejecting_rows_does_not_mend_is_said(write, chat, tokenizer, tmp_path):
    path = write([chat("a", "b " * 500), '{"messages": [{"role": "user", "content": "cut'])
    config = PrepareConfig(train_data=str(path), max_length=100)
    with pytest.raises(DataError) as caught:
        prepare(config, tokenizer, folder=tmp_path / "cache")
    assert caught.value.fix.endswith("by on_error=reject (not those of PHI3-D021)")
    assert "not JSON: Unterminated string starting at column 43" in str(caught.value)


def test_the_row_that_keeps_a_split_from_being_empty_is_named(write, chat, tokenizer, tmp_path):
    config = PrepareConfig(
        train_data=str(write([chat(f"Question {n}?", f"Answer {n}.") for n in range(4)])),
        clean_near_duplicates=False,
    )
    data = prepare(config, tokenizer, folder=tmp_path / "cache")
    told = [found for found in data.warnings if found["code"] == "PHI3-D041"]
    (first,) = told[0]["examples"][:1]
    assert first["problem"] == "without this row, validation would be empty"


def test_no_row_can_be_longer_than_the_model_reads(write, chat, tokenizer, tmp_path):
    path = write([chat("a", "b")])
    with pytest.raises(UsageError, match=r"PHI3-U052 max_length: 50,000 tokens.*reads 4,096"):
        prepare(
            PrepareConfig(train_data=str(path), max_length=50_000),
            tokenizer,
            folder=tmp_path / "cache",
            context_length=4096,
        )


@pytest.mark.parametrize("split", [0.0, 0.2])
def test_rows_to_train_on_are_counted_behind_the_split(split, write, chat, tokenizer, tmp_path):
    talks = [chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(50)]
    config = PrepareConfig(train_data=str(write(talks)), validation_split=split, test_split=split)
    data = prepare(config, tokenizer, folder=tmp_path / "cache")
    codes = data.manifest.codes
    told = (data.folder / "findings.jsonl").read_text()
    if split:
        assert f"rows to train on: {len(data.rows('train'))}" in told
    else:
        assert "PHI3-D038" not in codes


def test_one_row_that_a_split_took_is_told_so(write, chat, tokenizer, tmp_path):
    config = PrepareConfig(
        train_data=str(write([chat("Hello?", "Hello.")])), validation_split=0, test_split=0.9
    )
    with pytest.raises(DataError, match=r"PHI3-D040 .*no row is left.*; 1 went to the test split"):
        prepare(config, tokenizer, folder=tmp_path / "cache")


def test_rejected_rows_are_kept_with_their_reason(write, chat, tokenizer, tmp_path):
    rows = [chat(f"Question {n}?", f"Answer {n}.") for n in range(40)]
    broken = "{not json" + " at all" * 5000
    path = write([*rows, rows[0], broken])
    config = PrepareConfig(train_data=str(path), on_error="reject", clean_near_duplicates=False)
    data = prepare(config, tokenizer, folder=tmp_path / "cache")
    counts = data.manifest.counts
    assert (counts.rows_in, counts.kept, counts.rejected, counts.duplicates) == (42, 40, 1, 1)
    rejected = json.loads((data.folder / "rejected.jsonl").read_text())
    assert rejected["place"] == "train.jsonl:42"
    assert rejected["row"] == broken
    duplicate = json.loads((data.folder / "duplicates.jsonl").read_text())
    assert (duplicate["place"], duplicate["same_as"]) == ("train.jsonl:41", "train.jsonl:1")


@pytest.mark.parametrize(("split", "use"), [("validation", "validate with"), ("test", "test with")])
def test_a_file_of_your_own_without_a_good_row_is_told(
    split, use, write, chat, tokenizer, tmp_path
):
    path = write([chat(f"Question {n}?", f"Answer {n}.") for n in range(9)])
    files = {f"{split}_data": str(write(["{not json"], "held.jsonl"))}
    config = PrepareConfig(train_data=str(path), on_error="reject", **files)
    with pytest.raises(
        DataError, match=rf"PHI3-D040 held\.jsonl: no row is left to {use}; 1 rejected"
    ):
        prepare(config, tokenizer, folder=tmp_path / "cache")


def test_rows_that_weights_leave_out_are_told(write, chat, tokenizer, tmp_path):
    config = PrepareConfig(train_data=f"{write([chat('Hello?', 'Hello.')])}:0")
    with pytest.raises(DataError, match=r"PHI3-D040 .*the weights leave 1 out"):
        prepare(config, tokenizer, folder=tmp_path / "cache")


def test_files_of_one_name_are_told_apart(write, chat, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write([chat(f"What is {folder}?", f"A letter: {folder}."), "{"], f"{folder}/rows.jsonl")
    write([chat("Alone?", "Yes.")], "a/alone.jsonl")
    config = PrepareConfig(
        train_data="a/rows.jsonl, a/alone.jsonl",
        validation_data="b/rows.jsonl",
        test_split=0,
        on_error="reject",
    )
    data = prepare(config, tokenizer, folder=tmp_path / "cache")
    names = [source.name for source in data.manifest.sources]
    assert names == ["a/rows.jsonl", "alone.jsonl", "b/rows.jsonl"]
    lines = (data.folder / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in lines] == ["a/rows.jsonl:2", "b/rows.jsonl:2"]


def test_what_killed_preparations_left_is_cleared_away(write, chat, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    here = machine_name()
    dead, own, alive = (
        cache / f".0123.{pid}.{here}.partial" for pid in (2**30, os.getpid(), os.getppid())
    )
    elsewhere = cache / f".0123.{2**30}.not-{here}.partial"
    for folder in (dead, own, alive, elsewhere):
        (folder / "shards").mkdir(parents=True)
    config = PrepareConfig(
        train_data=str(write([chat("a", "b")])), validation_split=0, test_split=0
    )
    prepare(config, tokenizer, folder=cache)
    assert {*cache.glob(".*")} == {alive, elsewhere}


def test_a_system_that_tells_of_no_cores(write, chat, tokenizer, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    alive = tmp_path / "cache" / f".0123.{os.getppid()}.{machine_name()}.partial"
    alive.mkdir(parents=True)
    config = PrepareConfig(
        train_data=str(write([chat("a", "b")])), validation_split=0, test_split=0
    )
    assert prepare(config, tokenizer, folder=alive.parent).manifest.counts.kept == 1
    assert alive.exists()


def test_a_full_disk_is_told_and_nothing_is_left(write, chat, tokenizer, tmp_path):
    path = write([chat(f"Question {n}?", f"Answer {n}.") for n in range(300)])
    cache = tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"PHI3-D051 .*cache: a file cannot be .*Fix: free"):
            prepare(PrepareConfig(train_data=str(path)), tokenizer, folder=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*cache.iterdir()]


def test_a_source_that_cannot_be_read_is_told(tokenizer, tmp_path):
    config = PrepareConfig(train_data="/proc/self/mem")
    with pytest.raises(DataError, match="PHI3-D030 train_data: cannot be read: Input/output error"):
        prepare(config, tokenizer, folder=tmp_path / "cache")


def test_adding_rows_moves_none(write, chat, tokenizer, tmp_path):
    rows = [chat(f"What colour is thing {n}?", f"Colour {n * 7}.") for n in range(200)]
    sides = []
    for order in (rows[:100], rows[::-1]):
        config = PrepareConfig(
            train_data=str(write(order)), validation_split=0.2, clean_near_duplicates=False
        )
        data = prepare(config, tokenizer, folder=tmp_path / "cache")
        sides.append(
            {
                conversation.messages[0].content: split
                for split in ("train", "validation", "test")
                for conversation in data.conversations(split)
            }
        )
    assert sides[0].items() <= sides[1].items()
    assert set(sides[0].values()) == {"train", "validation", "test"}


def test_examples_are_views_that_never_supervise_the_first_token(write, chat, tokenizer, tmp_path):
    path = write([chat("Hello?", "Hello.", system="Be kind."), chat("Bye?", "Bye.")])
    config = PrepareConfig(train_data=str(path), validation_split=0, test_split=0)
    examples = prepare(config, tokenizer, folder=tmp_path / "cache").examples("train")
    assert len(examples[0:1]) == 1
    for example in examples:
        assert example.input_ids.dtype == np.int32
        assert not example.supervised[0]
        assert example.supervised[-2]  # the answer's <|end|>
        assert not example.supervised[-1]  # the template's <|endoftext|>


def test_a_row_to_label_without_a_question_is_told(write, chat, plain_tokenizer, tmp_path):
    lonely = {"messages": chat("?", "good", system="Be kind.")["messages"][::2]}
    config = PrepareConfig(
        train_data=str(write([chat("Fine!", "good"), lonely])), task="text-classification"
    )
    with pytest.raises(DataError, match=r"PHI3-D015 train\.jsonl:2: no message of the user"):
        prepare(config, plain_tokenizer, folder=tmp_path / "cache")


def test_a_long_system_message_does_not_hide_the_language(write, chat, plain_tokenizer, tmp_path):
    system = "You are the assistant of the shop and you answer in the language that you are asked. "
    asked = "माझा कन्सोल चालू होत नाही, मी काय करू?"
    config = PrepareConfig(train_data=str(write([chat(asked, "हो, मी आहे.", system=system * 9)])))
    config = config.model_copy(update={"validation_split": 0.0, "test_split": 0.0})
    data = prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    train = json.loads((data.folder / "report.json").read_text())["splits"]["train"]
    assert list(train["languages"]) == ["mr"]
    assert list(train["scripts"]) == ["Devanagari"]
    assert train["languages"]["mr"]["words"] == len((asked + " हो, मी आहे. " + system * 9).split())


def test_an_answer_that_is_not_to_be_learnt_is_told(write, chat, plain_tokenizer, tmp_path):
    """As OpenAI's format says it; a mask here would not go along to Azure or to evaluation."""
    turns = [*chat("Hello?", "Hm.")["messages"], *chat("Hello!", "Hello.")["messages"]]
    turns[1]["weight"], turns[3]["weight"], turns[0]["weight"] = 0, 1, None
    path = write([{"messages": turns}, {"messages": turns[2:]}])
    config = PrepareConfig(train_data=str(path), validation_split=0, test_split=0)
    with pytest.raises(DataError, match=r"PHI3-D029 train\.jsonl:1: message 2 .* has weight 0"):
        prepare(config, plain_tokenizer, folder=tmp_path / "cache")
    last = config.model_copy(update={"train_on": "last"})
    data = prepare(last, plain_tokenizer, folder=tmp_path / "cache")
    assert set(data.manifest.codes) == {"PHI3-D038"}
    turns[3]["weight"] = 0
    last = last.model_copy(update={"train_data": str(write([{"messages": turns}], "l.jsonl"))})
    with pytest.raises(DataError, match=r"PHI3-D029 l\.jsonl:1: message 4 "):
        prepare(last, plain_tokenizer, folder=tmp_path / "cache")

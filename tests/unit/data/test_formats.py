import csv
import json
import math
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data import jsonl
from mlflow_phi3.data.formats import detect
from mlflow_phi3.data.hub import is_hub_id
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.data.sources import parse_sources, plan_source, read_span
from mlflow_phi3.data.validate import parse_messages
from mlflow_phi3.errors import DataError

EXCHANGE = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]


def drafts(path, **settings):
    config = PrepareConfig(**settings)
    (source,) = parse_sources(str(path), "train")
    planned = plan_source(source, config)
    found = [
        planned.reader.read(row.value)
        for file, span in planned.spans
        for row in read_span(source.kind, file, span)
    ]
    return planned, found


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": EXCHANGE}, "chat"),
        ({"messages": EXCHANGE, "prompt": "Q?", "completion": "A."}, "chat"),
        (
            {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
            "sharegpt",
        ),
        ({"instruction": "Q?", "input": "", "output": "A."}, "alpaca"),
        ({"prompt": "Q?", "completion": "A."}, "prompt-completion"),
        ({"prompt": EXCHANGE[:1], "completion": EXCHANGE[1:]}, "prompt-completion"),
        ({"Question": "Q?", "Answer": "A."}, "question-answer"),
        ({"text": "Q?", "label": "A."}, "text-label"),
    ],
)
def test_each_format_gives_the_same_exchange(row, name, write):
    planned, found = drafts(write([row]))
    assert planned.reader.format.name == name
    assert found[0].messages == EXCHANGE


def test_alpaca_puts_the_input_after_the_instruction(write):
    _, found = drafts(write([{"instruction": "Sum up.", "input": "Long text.", "output": "Text."}]))
    assert found[0].messages[0]["content"] == "Sum up.\n\nLong text."


def test_keys_that_first_stand_in_a_late_row_are_read_there(write):
    plain = {"instruction": "Q?", "output": "A.", "id": 1}
    late = {**plain, "Input": "Long text.", "system": "Be kind.", "note": "x"}
    planned, found = drafts(write([plain] * 150 + [late, plain]))
    assert [turn["content"] for turn in found[150].messages] == [
        "Be kind.",
        "Q?\n\nLong text.",
        "A.",
    ]
    assert found[150].extra == {"id": 1, "note": "x"}
    assert found[151].messages == EXCHANGE
    assert planned.reader.taken == "instruction as user; output as assistant; kept aside: id"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": EXCHANGE},
        {"messages": [{"role": "system", "content": "Be kind."}, *EXCHANGE]},
        {"conversations": [{"from": "user", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
        {"instruction": "Q?", "output": "A."},
        {"prompt": "Q?", "completion": "A."},
        {"prompt": EXCHANGE[:1], "completion": EXCHANGE[1:]},
        {"question": "Q?", "answer": "A."},
    ],
)
def test_a_key_of_its_own_gives_the_system_message_in_every_format(row, write):
    _, found = drafts(write([{**row, "system": "Be kind."}]))
    assert found[0].messages == [{"role": "system", "content": "Be kind."}, *EXCHANGE]
    assert found[0].extra == {}


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"instruction": "Add.", "input": [1, 2], "output": "3"}, "[1, 2]"),
        ({"instruction": "Double.", "input": 2, "output": "4"}, "2"),
        ({"system": ["Be kind."], "prompt": "Q?", "completion": "A."}, "['Be kind.']"),
        ({"system": {"be": "kind"}, "messages": EXCHANGE}, "{'be': 'kind'}"),
    ],
)
def test_what_is_no_text_is_told_and_never_left_out(row, value, write):
    _, (draft,) = drafts(write([row]))
    problems = [draft.problem] if draft.problem else parse_messages(draft.messages)[1]
    assert [(problem.code, value in problem.text) for problem in problems] == [("PHI3-D010", True)]


def test_other_keys_of_a_turn_are_told(write):
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A.", "name": "Ann"}]
    _, (draft,) = drafts(write([{"conversations": turns}]))
    assert [problem.text for problem in parse_messages(draft.messages)[1]] == [
        "message 2 also has name"
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_in_json_none_is_a_word_and_nan_is_null(name, write):
    rows = [
        {"instruction": "Name the moon of Venus.", "input": math.nan, "output": "None"},
        {"instruction": "NULL", "input": None, "output": "null"},
    ]
    text = json.dumps(rows, indent=1) if name == "rows.json" else "\n".join(map(json.dumps, rows))
    _, found = drafts(write([text], name))
    assert [[message["content"] for message in draft.messages] for draft in found] == [
        ["Name the moon of Venus.", "None"],
        ["NULL", "null"],
    ]
    assert not any(draft.emptied for draft in found)


def test_the_report_says_what_was_taken_for_what(write):
    planned, found = drafts(write([{"query": "Q?", "answer": "A.", "id": 7}]))
    assert planned.reader.taken == "query as user; answer as assistant; kept aside: id"
    assert found[0].extra == {"id": 7}


def test_keys_that_no_format_has_are_told_those_that_there_are(write):
    with pytest.raises(DataError, match=r"PHI3-D032 .*no known format has the keys q, a") as told:
        drafts(write([{"q": "Q?", "a": "A."}]))
    assert "rename them to messages; conversations/conversation; instruction, " in str(told.value)
    assert "; prompt, completion/response; " in str(told.value)


@pytest.mark.parametrize("at", [0, 1, 150])
def test_each_row_may_write_its_keys_in_its_own_letters(at, write):
    rows = [{"instruction": "Q?", "output": "A.", "id": 1}] * 150
    rows.insert(at, {"Instruction": "Q?", "OUTPUT ": "A.", "id": 1})
    _, found = drafts(write(rows))
    assert [draft.messages for draft in found] == [EXCHANGE] * 151
    assert [draft.extra for draft in found] == [{"id": 1}] * 151


def test_two_fitting_formats_are_asked_about(write):
    row = {"instruction": "Q?", "output": "A.", "prompt": "P?", "completion": "C."}
    with pytest.raises(DataError, match=r"PHI3-D032.*alpaca and prompt-completion") as caught:
        drafts(write([row]))
    assert "format=alpaca" in caught.value.fix
    planned, _ = drafts(write([row]), format="prompt-completion")
    assert planned.reader.format.name == "prompt-completion"


def test_unknown_keys_are_told_with_the_nearest_known():
    with pytest.raises(DataError, match="did you mean 'messages'"):
        detect([{"mesages": []}], name="x", wanted="auto", missing_is_empty=True)


def test_csv_keeps_quoted_line_ends_and_counts_lines(tmp_path):
    path = tmp_path / "faq.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerows([["question", "answer"], ["one\ntwo?", 'say "yes"'], ["three?", "NaN"]])
    planned, found = drafts(path)
    assert planned.reader.format.name == "question-answer"
    assert found[0].messages[0]["content"] == "one\ntwo?"
    assert found[0].messages[1]["content"] == 'say "yes"'
    assert found[1].messages[1]["content"] == ""
    assert found[1].emptied
    lines = [row.line for file, span in planned.spans for row in read_span("csv", file, span)]
    assert lines == [2, 4]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\nFine.,None\n", r"PHI3-D019 .*no label: 'None' as label was taken for empty"),
        ("question,answer\nFine?,n/a\n", r"PHI3-D011 .*empty: 'n/a' as answer was taken for empty"),
    ],
)
def test_a_cell_that_was_taken_for_empty_is_told_with_the_switch(
    text, told, write, tokenizer, tmp_path
):
    task = "text-classification" if "label" in text else "chat-completion"
    whole = {"task": task, "validation_split": 0, "test_split": 0}
    config = PrepareConfig(train_data=str(write([text], "rows.csv")), **whole)
    with pytest.raises(DataError, match=rf"{told}; clean_missing_values=false"):
        prepare(config, tokenizer, folder=tmp_path / "cache")
    data = prepare(
        config.model_copy(update={"clean_missing_values": False}),
        tokenizer,
        folder=tmp_path / "cache",
    )
    assert data.manifest.counts.kept == 1


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_the_names_of_classes_are_read_with_their_numbers(kind, tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = {"text": ["Oh no", "Oh yes", "Oh"], "label": [0, 1, -1]}
    rows = datasets.Dataset.from_dict(table, features=features)
    path = tmp_path / ("rows.parquet" if kind == "parquet" else "rows")
    rows.to_parquet(path) if kind == "parquet" else rows.save_to_disk(path)
    _, found = drafts(path)
    assert [draft.label for draft in found] == ["bad", "good", None]
    assert found[2].problem.code == "PHI3-D019"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_classes_that_are_noted_of_no_column_matter_nothing(kind, tmp_path):
    noted = {"info": {"features": {"kind": {"_type": "ClassLabel", "names": ["bad", "good"]}}}}
    table = pa.table({"question": ["Q?"], "answer": ["A."]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    _, found = drafts(path)
    assert [draft.messages for draft in found] == [EXCHANGE]


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved-with-splits"])
def test_tables_of_datasets(kind, tmp_path):
    rows = datasets.Dataset.from_list([{"messages": EXCHANGE, "id": n} for n in range(5)])
    path = tmp_path / "data"
    if kind == "parquet":
        path = tmp_path / "data.parquet"
        rows.to_parquet(path)
    elif kind == "saved":
        rows.select([4, 2, 0]).save_to_disk(path)
    else:
        datasets.DatasetDict({"test": rows.select([1]), "train": rows}).save_to_disk(path)
    _, found = drafts(path)
    assert [draft.messages for draft in found] == [EXCHANGE] * len(found)
    assert [draft.extra["id"] for draft in found] == ([4, 2, 0] if kind == "saved" else [*range(5)])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("array", [True, False])
def test_json_however_it_is_laid_out(indent, array, tmp_path):
    rows = [{"messages": [{"role": "user", "content": f'a "b" {{ [ \\ {n}'}]} for n in range(3)]
    texts = [json.dumps(row, indent=indent) for row in rows]
    text = "[" + ",\n".join(texts) + "]" if array else "\n".join(texts)
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + text, encoding="utf-8")
    _, found = drafts(path)
    assert [draft.messages for draft in found] == [row["messages"] for row in rows]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_rows_on_one_line_are_numbered(bom, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", 100)
    path = tmp_path / "rows.json"
    rows = [json.dumps({"messages": [n]}) for n in range(40)]
    path.write_text(f"{bom}[7, {', '.join([*rows[:20], 'nonsense', *rows[20:]])}]\n", "utf-8")
    (source,) = parse_sources(str(path), "train")
    planned = plan_source(source, PrepareConfig())
    assert len(planned.spans) > 3
    found = [row for file, span in planned.spans for row in read_span(source.kind, file, span)]
    assert [row.line for row in found] == [*range(1, 43)]
    assert [row.line for row in found if row.problem] == [22]


def test_stray_values_in_an_array_are_rows_too(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"messages": 1}, 7,\n "x", {"messages": 2}, nonsense]', encoding="utf-8")
    (source,) = parse_sources(str(path), "train")
    planned = plan_source(source, PrepareConfig())
    rows = [row for file, span in planned.spans for row in read_span("json", file, span)]
    assert [row.line for row in rows] == [1, 1, 2, 2]
    assert [row.problem is None for row in rows] == [True, False, True, False]


@pytest.mark.parametrize(
    "named", ["missing.jsonl", "./no/such/folder", "~nobody-here/rows.jsonl", ",", ""]
)
def test_a_source_that_is_not_there(named):
    with pytest.raises(DataError, match="PHI3-D030 train_data: there is no file or folder"):
        parse_sources(named, "train")


@pytest.mark.parametrize(
    ("named", "mend"),
    [("trian.jsonl", "did you mean '{folder}/train.jsonl'"), ("chats.jsonl", "give a path")],
)
def test_a_mistyped_file_is_told_its_neighbours_name(tmp_path, named, mend):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError) as caught:
        parse_sources(str(tmp_path / named), "train")
    assert caught.value.fix.startswith(mend.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("squad", True),
        ("HuggingFaceH4/no_robots", True),
        ("teknium/OpenHermes-2.5", True),
        ("data/chats.jsonl", False),
        ("data/chats.JSONL", False),
        ("chats.data", False),
        ("/data/chats", False),
        ("~/chats", False),
        ("a/b/c", False),
    ],
)
def test_what_is_no_file_is_looked_for_on_the_hub(name, is_one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is is_one
    if is_one:
        Path(name).mkdir(parents=True)
        assert not is_hub_id(name)


def test_a_dataset_with_a_dot_in_its_name_is_read(tmp_path, monkeypatch):
    rows = datasets.Dataset.from_list([{"messages": EXCHANGE}])
    rows.save_to_disk(tmp_path / "rows")
    asked = {"teknium/OpenHermes-2.5": {"train": datasets.load_from_disk(tmp_path / "rows")}}
    monkeypatch.setattr(datasets, "load_dataset", asked.__getitem__)
    (source,) = parse_sources("teknium/OpenHermes-2.5:0.5", "train")
    assert (source.name, source.weight) == ("teknium/OpenHermes-2.5", 0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", ""),
        ("rows.jsonl", "\ufeff\n \r\n"),
        ("rows.json", "[]"),
        ("rows.csv", "question,answer\n"),
    ],
)
def test_a_source_without_a_row_is_named(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"PHI3-D040 {name}: there is no row in it\. Fix: give"):
        drafts(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_what_git_lfs_leaves_in_a_files_place_is_told(name, write):
    path = write(["version https://git-lfs.github.com/spec/v1", "oid sha256:0", "size 12"], name)
    with pytest.raises(DataError, match=rf"PHI3-D001 {name}: .*Git LFS's pointer.*git lfs pull"):
        drafts(path)


def test_a_name_that_cannot_be_written_is_refused():
    with pytest.raises(DataError, match=r"PHI3-D030 .*\\udcff\.jsonl' is not UTF-8. Fix: rename"):
        parse_sources(os.fsdecode(b"rows\xff.jsonl"), "train")


def test_weights_are_read_from_the_end(write):
    path = write([{"messages": EXCHANGE}])
    one, two = parse_sources(f"{path}:0.5, {path}", "train")
    assert (one.weight, two.weight) == (0.5, 1.0)

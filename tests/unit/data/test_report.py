import hashlib
import itertools
import json
import re
import statistics
from collections import Counter

import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.data.report import write_report

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"


@pytest.fixture(scope="module")
def report(samsum, tokenizer, tmp_path_factory):
    files = [samsum / f"{name}.jsonl" for name in ("train", "validation")]
    config = PrepareConfig(train_data=str(files[0]), validation_data=str(files[1]))
    data = prepare(config, tokenizer, folder=tmp_path_factory.mktemp("samsum"), context_length=4096)
    report = json.loads((data.folder / "report.json").read_text(encoding="utf-8"))
    return report, {
        split: [row.place for row in data.examples(split)] for split in report["splits"]
    }


@pytest.fixture(scope="module")
def counted(samsum, tokenizer):
    """Each row of the files by its place, counted with the template and nothing of ours."""
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in (USER, ASSISTANT, END)}
    rows = {}
    for name in ("train", "validation"):
        lines = (samsum / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            messages = json.loads(line)["messages"]
            for message in messages:
                text = message["content"].replace("\r\n", "\n")
                message["content"] = "\n".join(part.rstrip() for part in text.split("\n")).strip()
            ids = tokenizer.apply_chat_template(messages, return_dict=False)
            asks, answers = ids.index(special[USER]), ids.index(special[ASSISTANT])
            ends = [at for at, token in enumerate(ids) if token == special[END]]
            rows[f"{name}.jsonl:{number}"] = {
                "tokens": len(ids),
                "user": ends[0] - asks - 1,
                "assistant": ends[1] - answers - 1,
                "supervised": ends[1] - answers,
                "words": sum(len(message["content"].split()) for message in messages),
                "messages": len(messages),
                "changed": messages != json.loads(line)["messages"],
            }
    return rows


def _expect_spread(said, values, edges):
    assert said["sum"] == sum(values)
    assert said["mean"] == pytest.approx(statistics.fmean(values))
    assert said["median"] == statistics.median(values)
    ranked = sorted(values)
    place = 0.95 * (len(ranked) - 1)
    low, high = ranked[int(place)], ranked[min(int(place) + 1, len(ranked) - 1)]
    assert said["p95"] == pytest.approx(low + (high - low) * (place - int(place)))
    assert said["max"] == ranked[-1]
    bins = Counter(sum(value >= edge for edge in edges) - 1 for value in values)
    assert said["histogram"] == [bins[at] for at in range(len(edges))]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_splits_figures(report, counted, split):
    report, places = report
    said = report["splits"][split]
    rows = [counted[place] for place in places[split]]
    totals = {name: sum(row[name] for row in rows) for name in rows[0]}
    assert said["rows"] == len(rows)
    for name in ("tokens", "supervised"):
        _expect_spread(said[name], [row[name] for row in rows], report["edges"])
    for role in ("system", "user", "assistant"):
        _expect_spread(said["by_role"][role], [row.get(role, 0) for row in rows], report["edges"])
    spoken = totals["user"] + totals["assistant"]
    assert said["supervised_share"] == pytest.approx(totals["supervised"] / totals["tokens"])
    assert said["template_tokens"] == totals["tokens"] - spoken
    assert said["messages"] == {"2": len(rows)}
    assert (said["truncated"], said["labels"]) == (0, {})
    group = {  # samsum is English throughout
        "rows": len(rows),
        "words": totals["words"],
        "tokens": spoken,
        "tokens_per_word": pytest.approx(spoken / totals["words"]),
    }
    assert said["languages"] == {"en": group}
    assert said["scripts"] == {"Latin": group}


def test_the_whole_datas_figures(report, counted, samsum):
    report, places = report
    assert sorted(itertools.chain(*places.values())) == sorted(counted)
    rows = Counter(place.partition(".")[0] for place in counted)
    assert report["counts"] == {
        "rows_in": len(counted),
        "kept": len(counted),
        "rejected": 0,
        "duplicates": 0,
        "left_out": 0,
        "truncated": 0,
    }
    assert report["adds_up"]
    for source, name in zip(report["sources"], ("train", "validation"), strict=True):
        content = (samsum / f"{name}.jsonl").read_bytes()
        assert source == {
            "name": f"{name}.jsonl",
            "split": name,
            "format": "chat",
            "taken": "messages as messages",
            "rows": rows[name],
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "weight": 1.0,
        }
    assert report["cleaning"] == {"whitespace": sum(row["changed"] for row in counted.values())}
    assert (report["findings"], report["duplicates"], report["drift"]) == ([], {}, None)
    assert report["leaks"] == {"exact": 0, "prompt": 0, "near": 0, "pairs": []}


def test_the_label_of_the_last_bar_stays_in_the_picture(report, tmp_path):
    drawn, _ = report
    edges = drawn["edges"]
    filled = [int(edges[0] <= edge <= 1024) for edge in edges]
    train = {**drawn["splits"]["train"]}
    for name in ("tokens", "supervised"):
        train[name] = {**train[name], "histogram": filled}
    write_report(tmp_path, {**drawn, "splits": {**drawn["splits"], "train": train}})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    chart = page.split('aria-label="train: tokens a row"')[1].split("</svg>")[0]
    labels = re.findall(r'<text x="([\d.]+)"([^>]*)>([\d,]+)<', chart)
    assert len(labels) > 2
    for x, others, label in labels:
        beyond = 0 if 'text-anchor="end"' in others else 7 * len(label)
        assert float(x) + beyond <= 320, label

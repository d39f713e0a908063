"""Metrics of a real installed distribution: a folder on the path with its metadata."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.evaluation.plugins import load_metrics
from mlflow_phi3.evaluation.runner import evaluate
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import StepReport
from mlflow_phi3.training.spec import TrialSpec
from tests.tiny_phi3 import conversation, example

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.fixture
def install(tmp_path, monkeypatch):
    def installed(entry_points, *, group="mlflow_phi3.metrics", **modules):
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        info = tmp_path / "my_metrics-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-metrics\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


def test_the_example_of_the_docs_works(base, install):
    (source,) = re.findall(r"```python\n# my_metrics.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (entry,) = re.findall(r"^(brevity = .*)$", DOCS.read_text(), re.MULTILINE)
    install(entry.replace('"', ""), my_metrics=source)
    config = EvaluateConfig(answers=2, max_new_tokens=6)
    talks = [conversation("hold", "x", 1), conversation("light", "x" * 99, 2)]
    examples = [example(base, talk) for talk in talks]
    found = evaluate(base, None, examples, talks, config=config)
    scores = [row.others["brevity"] for row in found.predictions]
    assert scores[1] == 1.0
    assert found.metrics["brevity"] == pytest.approx(sum(scores) / 2)


@pytest.mark.parametrize("body", ["1 / 0", "None", "'good'"])
def test_a_metric_that_gives_no_number_is_named_with_the_answer(base, install, body):
    install("odd = odd:odd", odd=f"def odd(expected, answer):\n    return {body}\n")
    talk = conversation("hold", "the light", 1)
    config = EvaluateConfig(answers=1, max_new_tokens=2)
    with pytest.raises(UsageError, match=r"PHI3-U070 metric odd of .*'the light' is right"):
        evaluate(base, None, [example(base, talk)], [talk], config=config)


@pytest.mark.parametrize(
    ("group", "name", "setting"),
    [
        ("mlflow_phi3.losses", "poly", {"loss": "poly"}),
        ("mlflow_phi3.optimizers", "calm", {"optimizer": "calm"}),
    ],
)
def test_a_loss_and_an_optimizer_of_the_docs_train(base, install, tmp_path, group, name, setting):
    text = DOCS.read_text()
    (source,) = re.findall(r"```python\n# my_training.py\n(.*?)```", text, re.DOTALL)
    (entry,) = re.findall(rf"^({name} = .*)$", text, re.MULTILINE)
    install(entry.replace('"', ""), group=group, my_training=source)
    spec = TrialSpec(learning_rate=0.01, epochs=2, per_device_batch_size=2, scheduler="constant")
    examples = [example(base, conversation("hold", f"light {n}", n)) for n in range(4)]
    losses = {}
    for kind, chosen in (("plain", spec), ("theirs", replace(spec, **setting))):
        session = Session(base, examples, examples, folder=tmp_path / kind)
        session.add(kind, chosen)
        reports = [report for report in session.reports() if isinstance(report, StepReport)]
        losses[kind] = [report.loss for report in reports]
    assert losses["theirs"][-1] < losses["theirs"][0]
    assert losses["theirs"] != losses["plain"]


def test_without_packages_there_are_none():
    assert load_metrics() == {}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("rouge_l = my_bad:score", "takes the name"),
        ("precision@1 = my_bad:score", "has a name that MLflow takes for no metric"),
        ("mine/../f1 = my_bad:score", "has a name that MLflow takes for no metric"),
        ("mine = my_bad:absent", "cannot be loaded"),
        ("mine = my_nowhere:score", "cannot be loaded"),
        ("mine = my_broken:score", "cannot be loaded: ZeroDivisionError: "),
        ("mine = my_bad:number", "is int, which cannot be used"),
    ],
)
def test_a_broken_one_is_told_with_its_name(install, entry, told):
    bad = "def score(expected, answer):\n    return 1\nnumber = 3\n"
    install(entry, my_bad=bad, my_broken="1 / 0\n")
    where = f"entry point {entry} of mlflow_phi3.metrics"
    with pytest.raises(UsageError, match=rf"PHI3-U070 {where}: {told}"):
        load_metrics()

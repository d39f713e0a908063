"""A plan of the demo, with the real pipeline and the real engine."""

import json

import pytest

from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.training.spec import LoraSpec
from mlflow_phi3.workflows import plan as workflow
from mlflow_phi3.workflows.plan import run


def plan(*arguments):
    return parse_arguments(PlanWord, arguments)


def test_the_tokens_are_the_preparations_own(tmp_path, capsys):
    workspace = tmp_path / "work"
    wanted = (
        f"--workspace={workspace}",
        "--n-trials=4",
        "--epochs=2,3",
        "--probe-steps=1",
        "--usd-per-hour=2",
    )
    run(plan("--output=json", *wanted))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lines = {(e["section"], e["what"]): e for e in events if e["event"] == "plan"}
    (manifest,) = workspace.glob("prepared/*/manifest.json")
    splits = json.loads(manifest.read_text())["splits"]
    tokens = splits["train"]["tokens"]
    assert lines["data", "train tokens"]["amount"] == {"low": tokens, "high": tokens}
    trained = lines["local sweep", "tokens trained"]["amount"]
    assert trained == {"low": 6 * tokens, "high": 6 * tokens}  # two trainings of three passes
    assert lines["Foundry", "tokens billed"]["amount"]["high"] == 3 * tokens
    hours = lines["local sweep", "hours"]["amount"]["high"]
    assert 0 < hours < 10
    assert lines["local sweep", "money"]["amount"]["high"] == pytest.approx(2 * hours)
    assert lines["local sweep", "memory"]["amount"]["high"] > 0
    hosting = lines["hosting, a month", "by the hour, also when idle"]
    assert hosting["amount"]["high"] > 0
    assert "Standard_NC24ads_A100_v4, 20" in hosting["source"]  # the machine, the day, the place
    assert not list(workspace.glob("trials*"))
    run(plan(*wanted))  # as people read it
    shown = capsys.readouterr().out
    assert f"{6 * tokens:,}" in shown
    assert "tokens trained" in shown


def test_the_largest_trial_is_probed(tmp_path, monkeypatch):
    class AskedError(Exception):
        pass

    def ask(base, train, validation, spec, **options):
        raise AskedError(spec.lora)

    monkeypatch.setattr(workflow, "probe", ask)
    space = {"target-modules": "qkv_proj,all-linear", "dora": "false,true", "lora-r": "4..32"}
    options = [f"--{name}={value}" for name, value in space.items()]
    with pytest.raises(AskedError) as asked:
        run(plan(f"--workspace={tmp_path}", *options))
    (lora,) = asked.value.args
    assert lora == LoraSpec(r=32, target_modules=("all-linear",), dora=True)


def test_a_retired_model_is_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(PreflightError, match=r"2025-08-30.*Phi-4-mini-instruct"):
        run(plan("--foundry-model=Phi-3-mini-4k-instruct", f"--workspace={tmp_path}"))
    assert not list(tmp_path.iterdir())

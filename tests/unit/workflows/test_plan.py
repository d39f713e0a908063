"""A plan of the demo, with the real pipeline and the real engine."""

import json

import pytest

from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.training.spec import LoraSpec
from mlflow_phi3.workflows import plan as workflow
from mlflow_phi3.workflows.plan import run

# Passes of the demo's long conversations take seconds.
SHORT = ("--probe-steps=1", "--per-device-batch-size=2")


def plan(*arguments):
    return parse_arguments(PlanWord, arguments)


def lines_of(capsys):
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {(e["section"], e["what"]): e for e in events if e["event"] == "plan"}


def test_the_tokens_are_the_preparations_own(tmp_path, capsys):
    workspace = tmp_path / "work"
    wanted = (
        f"--workspace={workspace}",
        "--n-trials=4",
        "--epochs=2,3",
        *SHORT,
        "--usd-per-hour=2",
    )
    run(plan("--output=json", *wanted))
    lines = lines_of(capsys)
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
    assert "local sweep: tokens trained" in shown
    assert shown.count("preparation") == 1  # six figures are from it


def test_a_sweep_in_foundry_has_a_job_a_trial_and_nothing_of_this_machine(tmp_path, capsys):
    wanted = ("--backend=foundry", "--n-trials=12", "--epochs=2,3")
    run(plan("--output=json", f"--workspace={tmp_path}", *wanted))
    lines = lines_of(capsys)
    tokens = lines["data", "train tokens"]["amount"]["high"]
    assert lines["Foundry", "jobs"]["amount"]["high"] == 12
    billed = lines["Foundry", "tokens billed"]
    assert billed["amount"] == {"low": 24 * tokens, "high": 36 * tokens}
    assert "tokenizer of demo: --model microsoft/Phi-4-mini-instruct" in billed["source"]
    assert "local sweep" not in {section for section, _ in lines}


def test_hours_cost_what_the_machine_costs(tmp_path, capsys):
    machine = "--machine=standard_nc24ads_a100_v4"
    run(plan("--output=json", f"--workspace={tmp_path}", "--n-trials=1", machine, *SHORT))
    money = lines_of(capsys)["local sweep", "money"]
    assert money["amount"]["high"] > 0
    assert "Standard_NC24ads_A100_v4 on 20" in money["source"]


def test_a_machine_without_a_price_is_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(UsageError, match="PHI3-U033"):
        run(plan("--machine=Standard_NC24ads_A100_v3", f"--workspace={tmp_path}"))
    assert not list(tmp_path.iterdir())


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

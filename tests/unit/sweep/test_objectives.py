import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.objectives import measure_costs
from mlflow_phi3.training.reports import EndReport
from mlflow_phi3.training.spec import TrialSpec

TWO = "eval/loss,cost/seconds"


def parse(**values):
    return parse_values(SweepConfig, values)


def test_one_objective_is_pruned_and_several_are_not():
    assert parse().objectives == ("eval/loss",)
    assert parse().pruner == "median"
    both = parse(objective="eval/loss, cost/seconds")
    assert both.objectives == ("eval/loss", "cost/seconds")
    assert both.pruner == "none"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"objective": TWO, "pruner": "median"}, "several objectives take pruner=none"),
        ({"objective": TWO, "sampler": "cmaes"}, "sampler=cmaes knows one objective only"),
        ({"objective": TWO, "min_gain": "0.1"}, "min_gain is about one objective"),
        ({"objective": TWO, "backend": "foundry"}, "backend=foundry has one objective"),
        (
            {"objective": "cost/seconds"},
            "PHI3-U005 objective: 'cost/seconds': is neither eval/loss",
        ),
        ({"objective": "eval/loss,cost/time"}, "some of cost/seconds, cost/epochs"),
        ({"objective": f"{TWO},cost/seconds"}, "PHI3-U005 objective: .*is neither eval/loss"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, problem):
    with pytest.raises(UsageError, match=problem):
        parse(**values)


def test_costs_are_what_the_trial_took(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(640))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "optimizer.safetensors").write_bytes(bytes(1280))  # as an earlier release left
    report = EndReport("trial-000", "complete", "", 12, 1.5, tmp_path, 7.5)
    names = ("cost/adapter_bytes", "cost/epochs", "cost/seconds")
    found = measure_costs(names, TrialSpec(1e-3, epochs=4), report)
    assert list(found.items()) == [
        ("cost/adapter_bytes", 640.0),
        ("cost/epochs", 4.0),
        ("cost/seconds", 7.5),
    ]

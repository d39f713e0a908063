"""What is asked before something is deleted in Azure."""

import io
from types import SimpleNamespace

import pytest
import typer

from mlflow_phi3.azure.finetuning import JobState, TunedModel
from mlflow_phi3.cli import jobs
from mlflow_phi3.errors import UsageError
from mlflow_phi3.foundry.tuned import Deployed

MODEL = TunedModel("phi3-chat", "2", "azureml://delete/2", "job-1")
JOB = JobState("job-1", "Failed", "phi3-chat", "", {}, {}, "", "")


@pytest.fixture
def delete(monkeypatch, tracker):
    """Delete with an answer, or without a terminal; what was deleted."""

    def go(found, *, deployed=(), answer="", terminal=True, yes=False):
        gone = []
        inventory = SimpleNamespace(
            find=lambda _name: found,
            deployed=lambda _model: list(deployed),
            remove=lambda removal, _told: gone.append(removal.model or removal.job),
        )
        stdin = io.StringIO(f"{answer}\n" if answer else "")
        stdin.isatty = lambda: terminal
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(jobs, "open_project", lambda _target: None)
        monkeypatch.setattr(jobs, "Inventory", lambda _project, **_more: inventory)
        more = {"dry_run": False, "target": "azure-foundry", "timeout_s": 1}
        try:
            jobs.delete_command(found.name, cascade=True, yes=yes, **more)
        except typer.Abort:
            assert not gone
        return gone

    return go


@pytest.mark.parametrize("deployed", [[], [Deployed("chat")]], ids=["idle", "served"])
def test_a_tuned_model_goes_only_when_somebody_says_so(delete, deployed, capsys):
    assert delete(MODEL, deployed=deployed, answer="n") == []
    said = capsys.readouterr().out
    assert ("Requests to these endpoints will fail." in said) == bool(deployed)
    assert "A deleted model has to be trained, and paid for, anew. Go on?" in said
    assert delete(MODEL, deployed=deployed, answer="y") == [MODEL]
    assert delete(MODEL, deployed=deployed, yes=True) == [MODEL]


def test_without_a_terminal_a_tuned_model_goes_by_yes_alone(delete):
    with pytest.raises(UsageError, match=r"PHI3-U791 delete: .*--yes"):
        delete(MODEL, answer="y", terminal=False)
    assert delete(MODEL, yes=True, terminal=False) == [MODEL]


def test_a_job_that_is_over_goes_without_a_question(delete):
    assert delete(JOB, terminal=False) == [JOB]


@pytest.mark.parametrize("models", [[], [MODEL]])
def test_a_list_of_nothing_is_told_in_words(models, monkeypatch, capsys):
    service = SimpleNamespace(list_jobs=list, tuned_models=lambda: models)
    inventory = SimpleNamespace(service=service, deployed=lambda _model: [])
    monkeypatch.setattr(jobs, "open_project", lambda _target: None)
    monkeypatch.setattr(jobs, "Inventory", lambda _project: inventory)

    jobs.list_command(target="azure-foundry:/local", as_json=False)

    said = capsys.readouterr().out
    assert "Fine-tuning jobs: none\n" in said
    assert ("Tuned models: none\n" in said) == (not models)
    begin = "mlflow-phi3 train --backend foundry --azure_target azure-foundry:/local"
    assert (begin in said) == (not models)

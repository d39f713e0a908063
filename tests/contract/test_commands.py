"""The commands that people type."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mlflow_phi3.cli.deployment import app as deployment
from mlflow_phi3.cli.emulator import app as emulator_app
from mlflow_phi3.emulator.host import serve
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE, settings_from
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.plugins.deployments import target_help


def test_emulator_commands_find_the_one_that_runs(emulator):
    told = CliRunner().invoke(emulator_app, ["status", "--json"])
    assert json.loads(told.output)["url"] == emulator.running.url
    assert emulator.running.url in CliRunner().invoke(emulator_app, ["start"]).output
    lines = CliRunner().invoke(emulator_app, ["env"]).output.splitlines()
    told = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    assert told["AZURE_AUTHORITY_HOST"] == emulator.running.url
    assert set(told) == set(emulator.environment)


def test_settings_printed_again_keep_the_project_that_is_meant(emulator, monkeypatch):
    def printed():
        lines = CliRunner().invoke(emulator_app, ["env"]).output.splitlines()
        told = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        return told["AZURE_RESOURCE_GROUP"], told["AZUREML_WORKSPACE_NAME"]

    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "mine")
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "in-azure")
    assert printed() == (GROUP, WORKSPACE)
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)
    assert printed() == ("mine", WORKSPACE)


def test_emulator_status_and_stop_when_none_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_PHI3_EMULATOR_HOME", str(tmp_path))
    told = CliRunner().invoke(emulator_app, ["status"])
    assert (told.exit_code, told.output) == (1, "not running\n")
    assert CliRunner().invoke(emulator_app, ["stop"]).output == "it did not run\n"


def test_the_emulator_takes_no_folder_of_others_for_its_home(monkeypatch, tmp_path):
    notes = tmp_path / "deployments" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    monkeypatch.setenv("MLFLOW_PHI3_EMULATOR_HOME", str(tmp_path))
    told = CliRunner().invoke(emulator_app, ["start"])
    assert "PHI3-P712" in str(told.exception), told
    with pytest.raises(PreflightError, match="PHI3-P712"):
        serve(settings_from(os.environ))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [notes]


def test_nothing_expired(emulator):
    told = CliRunner().invoke(deployment, ["reap", "-t", "azure-foundry:/local"])
    assert told.output.endswith("nothing has expired\n"), told


def test_a_name_that_is_not_there(emulator):
    told = CliRunner().invoke(deployment, ["promote", "nobody", "-t", "azure-foundry:/local"])
    assert "PHI3-U727" in str(told.exception)


def test_no_time_at_all_is_no_time_limit():
    words = ["reap", "-t", "azure-foundry:/local", "--timeout-s", "-5"]
    told = CliRunner().invoke(deployment, words)
    assert told.exit_code == 2
    assert "--timeout-s" in told.output


def test_help_names_every_key():
    from mlflow_phi3.config.deploy import DeployConfig

    text = target_help()
    assert [name for name in DeployConfig.model_fields if f"  {name}" not in text] == []


@pytest.mark.slow
def test_mlflows_own_command_line(models, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
        target = ["-t", "azure-foundry:/local"]
        done = subprocess.run(
            command + target, env=dict(os.environ), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    question = {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
        "temperature": 0,
    }
    path = tmp_path / "question.json"
    path.write_text(json.dumps(question))
    code, out, _ = run("create", "--name", "typed", "-m", models["one"])
    assert (code, out.strip()) == (0, "python_function deployment typed is created")
    code, out, _ = run("predict", "--name", "typed", "-I", str(path))
    assert json.loads(out)["choices"][0]["message"]["content"] == "one: hello"
    code, out, _ = run("update", "--name", "typed", "-C", "instance_count=2")
    assert code == 0
    code, out, _ = run("get", "--name", "typed")
    assert "'instance_count': 2" in out
    code, _, err = run("update", "--name", "typed", "-C", "trafic=3")
    assert code == 2
    assert "did you mean 'traffic'?" in err
    assert run("delete", "--name", "typed")[0] == 0
    assert "typed" not in run("list")[1]

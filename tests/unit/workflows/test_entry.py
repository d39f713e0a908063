import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import psutil
import pytest

from mlflow_phi3.workflows import entry

PROBE = """
import sys
from mlflow_phi3.workflows.entry import run
code = run("main", ["--epoch", "5"])
heavy = sorted({"torch", "transformers", "mlflow", "optuna", "datasets"} & set(sys.modules))
print(code, heavy)
"""


def test_a_mistake_is_told_before_anything_heavy_is_imported():
    told = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=60
    )

    assert told.stdout.split(maxsplit=1) == ["2", "[]\n"]
    assert told.stderr == ("PHI3-U004 epoch: unknown parameter. Fix: did you mean 'epochs'?\n")


@pytest.mark.parametrize(
    ("model", "data", "offline"),
    [
        ("demo", "", "1"),
        (".", "demo, no/such.jsonl", "1"),
        ("microsoft/Phi-4-mini-instruct", "demo", None),
        ("demo", "demo, HuggingFaceH4/no_robots:0.5", None),
        ("demo", "squad", None),
        ("demo", "teknium/OpenHermes-2.5", None),
        ("demo", "tests:2", "1"),
    ],
)
def test_the_hub_is_out_of_reach_when_all_is_on_this_machine(monkeypatch, model, data, offline):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    entry.quieten_libraries(model, [data, ""])

    assert entry.os.environ.get("HF_HUB_OFFLINE") == offline
    assert entry.os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--output", "json"], True),
        (["--output=json"], True),
        (["--output", "plain"], False),
        ([], False),
    ],
)
def test_a_machine_is_told_of_a_failure_by_an_event(asked, told, monkeypatch, capsys):
    monkeypatch.setattr(entry, "find_launcher", lambda: None)

    assert entry.run("train", ["--epoch", "5", *asked]) == 2

    shown = capsys.readouterr()
    message = "PHI3-U004 epoch: unknown parameter. Fix: did you mean 'epochs'?"
    assert shown.err == f"{message}\n"
    event = {
        "event": "error",
        "text": message,
        "code": "PHI3-U004",
        "where": "epoch",
        "problem": "unknown parameter",
        "fix": "did you mean 'epochs'?",
    }
    assert [json.loads(line) for line in shown.out.splitlines()] == [event] * told


def test_one_warning_of_peft_is_silenced_and_no_other(monkeypatch):
    def warn(_):
        for text in ("`is_gradient_checkpointing` is deprecated and", "another is deprecated"):
            warnings.warn(text, FutureWarning, stacklevel=1)

    monkeypatch.setattr(entry, "find_launcher", lambda: None)
    monkeypatch.setattr(entry, "import_large", lambda _: SimpleNamespace(run=warn))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert entry.run("train", []) == 0

    assert [str(one.message) for one in heard] == ["another is deprecated"]


def test_paths_mean_where_the_launcher_was_started(tmp_path, monkeypatch, capsys):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    (there / "space.yaml").write_text("epochs: none\n")
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], cwd=there, stdin=subprocess.PIPE)
    monkeypatch.chdir(here)
    monkeypatch.setattr(entry, "find_launcher", lambda: psutil.Process(launcher.pid))
    try:
        code = entry.run("sweep", ["--space", "space.yaml"])
    finally:
        launcher.communicate()

    assert code == 2
    assert "PHI3-U005 epochs: 'none'" in capsys.readouterr().err  # so the file was found


def test_a_run_that_the_store_does_not_have_is_told_in_a_line(tracker, monkeypatch, capsys):
    monkeypatch.setattr(entry, "find_launcher", lambda: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    assert entry.run("prepare", ["--output", "plain"]) == 4

    assert "Run with id=00000000000000000000000000000000 not found" in capsys.readouterr().err

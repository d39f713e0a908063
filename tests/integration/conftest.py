"""Real commands in folders of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment():
    """The environment a person would have, with this interpreter's commands first on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "160"}


@pytest.fixture
def few(tmp_path):
    """A file of some short conversations, which are learnt in no time."""
    asked = ({"role": "user", "content": f"Where is item {number} kept?"} for number in range(40))
    answers = ("on the shelf", "in the cellar", "behind the door")
    rows = [
        {"messages": [one, {"role": "assistant", "content": f"It is {answers[number % 3]}."}]}
        for number, one in enumerate(asked)
    ]
    path = tmp_path / "few.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def project(tmp_path):
    """The project's files in an empty folder, as a clone would have them, without its history."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("MLproject", "conda.yaml", "constraints.txt", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("mlflow_phi3", "projects"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def start(project, environment):
    """Start a command in the project; whatever it left running is killed afterwards."""
    processes = []

    def begin(*words, **changes):
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=project,
            env=environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.communicate()

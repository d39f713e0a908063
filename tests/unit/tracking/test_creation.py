"""A SQLite store is made whole or not at all, by one of many commands."""

import re
import resource
import sqlite3
import subprocess
import sys

import pytest
from alembic.util.exc import CommandError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import PreflightError
from mlflow_phi3.tracking.creation import make_whole
from mlflow_phi3.tracking.missing import asking
from mlflow_phi3.tracking.tracker import _make_store

# All is imported once, and the commands begin at the same moment.
OPEN = """
import os, sys
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.tracking.tracker import open_tracker

commands = int(sys.argv[1])
for _ in range(commands):
    if os.fork() == 0:
        try:
            print(open_tracker(uri="sqlite:///mlflow.db").experiment_id, flush=True)
        except PreflightError as error:
            print(error, flush=True)
        os._exit(0)
for _ in range(commands):
    os.wait()
"""


def opened(folder, commands, **options):
    words = [sys.executable, "-c", OPEN, str(commands)]
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300, check=True, **options
    )
    return done.stdout


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_commands_that_begin_at_once_in_a_new_folder_all_find_the_store(tmp_path):
    assert opened(tmp_path, 3) == "0\n" * 3
    assert {"mlflow.db"} == {name for name in names(tmp_path) if "wal" not in name} - {
        "mlflow.db-shm"
    }


def test_a_disk_that_is_full_is_named_and_leaves_nothing_behind(tmp_path):
    few = 300_000
    told = opened(
        tmp_path, 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (few, few))
    )

    assert told.startswith("PHI3-P086 sqlite:///mlflow.db: ")
    assert f"the disk of {tmp_path}" in told
    assert not [name for name in names(tmp_path) if name != "mlflow.db.lock"]

    store = f"sqlite:///{tmp_path}/mlflow.db"
    make_whole(store, _make_store)  # with room again
    assert MlflowClient(store).get_experiment("0").name == "Default"


def test_what_a_killed_command_left_is_made_anew(tmp_path):
    path = tmp_path / "mlflow.db"
    (tmp_path / "mlflow.db.unfinished").write_text("half")
    (tmp_path / "mlflow.db.unfinished-journal").write_text("half")

    make_whole(f"sqlite:///{path}", _make)

    assert names(tmp_path) == ["mlflow.db"]


@pytest.mark.parametrize(
    "uri", ["sqlite:///{}/a.db", "sqlite:///:memory:", "sqlite://", "http://a"]
)
def test_other_stores_are_left_alone(tmp_path, uri):
    (tmp_path / "a.db").write_text("a store")
    make_whole(uri.format(tmp_path), lambda _: pytest.fail("made anew"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=rf"PHI3-P086 .*the disk of {tmp_path}/file"):
        make_whole(f"sqlite:///{tmp_path}/file/mlflow.db", _make)


def _make(uri):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("CREATE TABLE experiments (name)")
    connection.close()


@pytest.mark.parametrize(
    ("uri", "error", "mend"),
    [
        (
            "sqlite:////a/mlflow.db",
            CommandError("Requested revision 1 overlaps with other requested revisions 2"),
            "half made: delete /a/mlflow.db",
        ),
        (
            "sqlite:////a/mlflow.db",
            MlflowException("(sqlite3.OperationalError) table _alembic_tmp_runs already exists"),
            "half made: delete /a/mlflow.db",
        ),
        (
            "sqlite:////a/mlflow.db",
            MlflowException("Experiment(name=a) already exists"),
            "name another",
        ),
        (
            "sqlite:////a/mlflow.db",
            MlflowException("attempt to write a readonly database"),
            "the disk of /a",
        ),
        ("file:///a/mlruns", MlflowException("no such folder"), "sqlite:///mlflow.db"),
        ("htp://typo", MlflowException("unsupported URI"), "correct MLFLOW_TRACKING_URI"),
        ("http://here", MlflowException("no answer"), "start it"),
    ],
)
def test_the_mend_is_that_of_the_kind_of_store(uri, error, mend):
    with pytest.raises(PreflightError, match=rf"PHI3-P086 {uri}: .*{mend}"), asking(uri):
        raise error


@pytest.mark.parametrize("given", ["mlruns", "http//typo"])
def test_a_folder_is_told_as_it_was_written(given, tmp_path, monkeypatch):
    import mlflow

    from mlflow_phi3.tracking.tracker import open_tracker

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    taken = re.escape((tmp_path / given).as_uri())
    try:
        with pytest.raises(
            PreflightError, match=rf"PHI3-P086 {given}: .* the folder {taken},.*migrate-filestore"
        ):
            open_tracker(uri=given)
    finally:
        mlflow.set_tracking_uri(before)

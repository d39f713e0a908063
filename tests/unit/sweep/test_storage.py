import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import optuna
import pytest

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.sweep.driving import _disk_has_room
from mlflow_phi3.sweep.storage import check_storage, find_storage, open_storage
from mlflow_phi3.tracking.uris import hide_password


def test_a_study_lies_beside_its_tracking_store(tmp_path, monkeypatch):
    beside = f"sqlite:///{tmp_path}/optuna.db"
    assert find_storage("", f"sqlite:///{tmp_path}/mlflow.db") == beside
    assert find_storage("", (tmp_path / "mlruns").as_uri()) == beside
    monkeypatch.chdir(tmp_path)
    assert find_storage("", "http://127.0.0.1:5000") == beside


def test_what_is_no_storage_is_refused():
    with pytest.raises(UsageError, match="neither a database URL nor a journal file"):
        open_storage("study.txt")
    with pytest.raises(PreflightError, match="PHI3-P081"):
        open_storage("postgresql://nobody:secret@127.0.0.1:1/none")


def test_passwords_are_hidden():
    assert hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert hide_password("sqlite:////a/b.db") == "sqlite:////a/b.db"
    with pytest.raises(PreflightError) as caught:
        open_storage("postgresql://nobody:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se/cr?e#t[@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql//me:secret@host/db", "postgresql//me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("http://host:5000/#/experiments/1", "http://host:5000/#/experiments/1"),
    ],
)
def test_passwords_are_hidden_however_they_are_written(url, shown):
    assert hide_password(url) == shown


@pytest.mark.parametrize("host", ["rest@host", "host:port", "re:st@host"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(host):
    with pytest.raises(
        UsageError, match=r"PHI3-U087 storage: postgresql://me:\*\*\*@host"
    ) as caught:
        check_storage(f"postgresql://me:secret@{host}/db")
    assert "secret" not in str(caught.value)
    assert "rest" not in str(caught.value)


def test_a_mistyped_address_is_refused_without_its_password():
    with pytest.raises(UsageError, match="PHI3-U086") as caught:
        check_storage("postgresql//me:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_journal_file_keeps_a_study(tmp_path):
    path = str(tmp_path / "deep" / "study.log")
    optuna.create_study(storage=open_storage(path), study_name="s")
    assert optuna.get_all_study_names(open_storage(path)) == ["s"]


def test_what_cannot_keep_a_study_is_refused_in_a_line(tmp_path):
    text = tmp_path / "text.db"
    text.write_text("no database\n" * 200)
    journal = tmp_path / "text.log"
    journal.write_text("no journal\nat all\n")
    for url in (
        f"sqlite:///{text}",
        str(journal),
        str(text / "study.log"),
        f"sqlite:///{text}/o.db",
    ):
        with pytest.raises(PreflightError, match="PHI3-P081"):
            open_storage(url)
    for url in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        with pytest.raises(UsageError, match=r"PHI3-U087 storage: .* is gone with this process"):
            open_storage(url)


def test_commands_that_begin_at_once_make_one_database(tmp_path):
    url = f"sqlite:///{tmp_path}/new.db"
    together = threading.Barrier(4)

    def open_together(_):
        together.wait()
        return open_storage(url).get_all_studies()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_together, range(4))) == [[]] * 4


def test_a_line_that_a_full_disk_has_torn_costs_a_journal_nothing_else(tmp_path):
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(str(path)), study_name="s")
    study.tell(study.ask(), 1.0)
    for length in (1, 100, 200_000):  # the end of a file, and more than is looked at at once
        with path.open("ab") as journal:
            journal.write(b"{" * length)
        study = optuna.load_study(study_name="s", storage=open_storage(str(path)))
        study.tell(study.ask(), 2.0)
    found = optuna.load_study(study_name="s", storage=open_storage(str(path)))
    assert [trial.value for trial in found.trials] == [1.0, 2.0, 2.0, 2.0]


def test_a_database_on_a_full_disk_is_told_so(tmp_path):
    with (
        closing(sqlite3.connect(tmp_path / "study.db")) as database,
        pytest.raises(PreflightError, match=r"PHI3-P088 .*disk is full. Fix: make room"),
        _disk_has_room(tmp_path, "s"),
    ):
        database.execute("pragma max_page_count = 1")
        database.execute("create table trials (number integer)")

"""One suite over all writers; and that what belongs together is written together or not at all."""

import math
import sqlite3
from contextlib import closing

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy import Column, Integer, MetaData, UniqueConstraint, event, text

from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.sweep.writer import PlainWriter, RowWriter, build_writer
from tests.unit.sweep.servers import Postgres

DISTRIBUTIONS = {
    "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "layers": optuna.distributions.CategoricalDistribution(["some", "all"]),
}
KINDS = ["rows in SQLite", "rows in PostgreSQL", "SQLite", "journal", "memory"]


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    server = Postgres(tmp_path_factory.mktemp("writer") / "pg")
    yield server.url
    server.server.cleanup()


@pytest.fixture(params=KINDS)
def storage(request, tmp_path, storage_url):
    match request.param:
        case "memory":
            return InMemoryStorage()
        case "journal":
            return open_storage(str(tmp_path / "study.log"))
        case "rows in PostgreSQL":
            return open_storage(request.getfixturevalue("postgres"))
    return open_storage(storage_url)


@pytest.fixture
def writer(storage, request):
    if request.node.callspec.params["storage"] == "SQLite":
        return PlainWriter(storage)
    made = build_writer(storage)
    # Fails when another Optuna has other tables, so that the plain writer does the work unseen.
    assert isinstance(made, RowWriter) == ("rows" in request.node.callspec.params["storage"])
    return made


@pytest.fixture
def study(storage, request):
    return optuna.create_study(storage=storage, study_name=request.node.name)


def propose(rate=1e-3, state=TrialState.RUNNING):
    return optuna.create_trial(
        state=state,
        params={"rate": rate, "layers": "all"},
        distributions=DISTRIBUTIONS,
        user_attrs={"lease": {"driver": "me", "round": 0}},
        system_attrs={"of the sampler": [1, 2]},
    )


def test_a_proposal_is_there_with_all_that_it_says(writer, study):
    first = writer.create(study._study_id, propose(1e-3))
    second = writer.create(study._study_id, propose(2e-3, TrialState.WAITING))
    assert [number for _, number in (first, second)] == [0, 1]
    for (trial_id, number), proposal in zip((first, second), (1e-3, 2e-3), strict=True):
        trial = study.get_trials()[number]
        expected = propose(proposal, TrialState.RUNNING if number == 0 else TrialState.WAITING)
        assert trial._trial_id == trial_id
        assert (trial.params, trial.distributions) == (expected.params, DISTRIBUTIONS)
        assert (trial.user_attrs, trial.system_attrs) == (
            expected.user_attrs,
            expected.system_attrs,
        )
        assert trial.state is expected.state
        assert (trial.datetime_start is None) == (number == 1)


def test_numbers_count_the_trials_of_one_study(writer, study, storage, request):
    other = optuna.create_study(storage=storage, study_name=f"{request.node.name} beside")
    assert writer.create(study._study_id, propose())[1] == 0
    assert writer.create(other._study_id, propose())[1] == 0
    assert writer.create(study._study_id, propose())[1] == 1


def test_facts_and_losses_are_kept_and_overwritten(writer, study):
    ids = [writer.create(study._study_id, propose())[0] for _ in range(2)]
    writer.note({ids[0]: {"run_id": "a", "other": None}, ids[1]: {"run_id": "b"}})
    writer.note({ids[0]: {"run_id": "c"}})
    writer.note({})
    for epoch, loss in ((1, 2.0), (2, math.nan), (3, math.inf), (1, 1.5)):
        writer.report(ids[0], epoch, loss)
    first, second = study.get_trials()
    assert (first.user_attrs["run_id"], first.user_attrs["other"]) == ("c", None)
    assert second.user_attrs["run_id"] == "b"
    assert first.user_attrs["lease"] == {"driver": "me", "round": 0}
    losses = first.intermediate_values
    assert (losses[1], losses[3]) == (1.5, math.inf)
    assert math.isnan(losses[2])


@pytest.mark.parametrize(
    ("state", "values"),
    [(TrialState.COMPLETE, [1.5]), (TrialState.PRUNED, [math.inf]), (TrialState.FAIL, None)],
)
def test_an_end_is_told_once(writer, study, state, values):
    trial_id, _ = writer.create(study._study_id, propose())
    writer.finish(trial_id, state, values, {"outcome": {"seconds": 1.0}})
    (trial,) = study.get_trials()
    assert (trial.state, trial.values) == (state, values)
    assert trial.user_attrs["outcome"] == {"seconds": 1.0}
    assert trial.duration.total_seconds() < 60
    with pytest.raises(UpdateFinishedTrialError):
        writer.finish(trial_id, TrialState.COMPLETE, [0.5], {"outcome": "another"})
    with pytest.raises(UpdateFinishedTrialError):
        writer.report(trial_id, 1, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        writer.note({trial_id: {"outcome": "another"}})
    assert study.get_trials() == [trial]


def test_several_values_are_kept_in_their_order(writer, storage, request):
    study = optuna.create_study(
        storage=storage, study_name=request.node.name, directions=["minimize"] * 3
    )
    trial_id, _ = writer.create(study._study_id, propose())
    writer.finish(trial_id, TrialState.COMPLETE, [3.0, 1.0, 2.0], {})
    assert study.get_trials()[0].values == [3.0, 1.0, 2.0]


def work(writer, study):
    """All that a study writes of its trials."""
    ids = [writer.create(study._study_id, propose(rate))[0] for rate in (1e-3, 2e-3)]
    writer.note({trial_id: {"run_id": f"run {trial_id}"} for trial_id in ids})
    for trial_id in ids:
        writer.report(trial_id, 1, 1.0 / trial_id)
    writer.finish(ids[0], TrialState.COMPLETE, [0.5], {"outcome": {"reason": ""}})
    writer.finish(ids[1], TrialState.PRUNED, [0.7], {"outcome": {"reason": "worse"}})


def rows_of(storage):
    """Every row of every table, without the hours."""
    with storage.engine.connect() as connection:
        tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        return {
            table: [
                {key: str(value) for key, value in row.items() if "datetime" not in key}
                for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()
            ]
            for (table,) in tables.all()
        }


def test_the_rows_are_those_of_optunas_own_calls(tmp_path, storage_url):
    found = []
    for make, url in ((build_writer, storage_url), (PlainWriter, f"sqlite:///{tmp_path}/plain.db")):
        storage = open_storage(url)
        work(make(storage), optuna.create_study(storage=storage, study_name="s"))
        found.append(rows_of(storage))
    assert found[0] == found[1]


class Killed(BaseException):
    """Nothing that code would catch."""


@pytest.mark.parametrize("call", ["create", "finish", "note"])
def test_a_driver_that_dies_in_a_write_has_written_nothing(storage_url, call):
    """It dies before each of the statements in turn, the commit included."""
    storage = open_storage(storage_url)
    study = optuna.create_study(storage=storage, study_name="s")
    writer = build_writer(storage)
    first, _ = writer.create(study._study_id, propose())
    second, _ = writer.create(study._study_id, propose())
    calls = {
        "create": lambda: writer.create(study._study_id, propose()),
        "finish": lambda: writer.finish(first, TrialState.COMPLETE, [1.0], {"a": 1, "b": 2}),
        "note": lambda: writer.note({first: {"run_id": "a"}, second: {"run_id": "b"}}),
    }
    before, left, survived = rows_of(storage), [0], 0
    engine = storage.engine

    def strike(*_):
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    dies = True
    while dies:
        left[0] = survived
        event.listen(engine, "before_cursor_execute", strike)
        event.listen(engine, "commit", strike)
        try:
            calls[call]()
            dies = False
        except Killed:
            survived += 1
        finally:
            event.remove(engine, "before_cursor_execute", strike)
            event.remove(engine, "commit", strike)
            # Closes its connection, as a death does: what is not committed is gone.
            storage.remove_session()
            engine.dispose()
        assert (rows_of(storage) == before) == dies
    assert survived > 2


def test_a_write_is_one_transaction(storage_url):
    storage = open_storage(storage_url)
    study = optuna.create_study(storage=storage, study_name="s")
    commits = []
    event.listen(storage.engine, "commit", commits.append)
    work(build_writer(storage), study)
    assert len(commits) == 7


def test_what_a_deadlock_hindered_optuna_tries_again(storage_url, monkeypatch):
    storage = open_storage(storage_url)
    study = optuna.create_study(storage=storage, study_name="s")
    writer = build_writer(storage)

    def refuse(*_):
        raise optuna.exceptions.StorageInternalError

    monkeypatch.setattr(writer, "_create", refuse)
    assert writer.create(study._study_id, propose())[1] == 0
    assert study.get_trials()[0].params == propose().params


def test_tables_that_are_not_known_are_left_to_optuna(storage_url, monkeypatch):
    from optuna.storages._rdb import models

    storage = open_storage(storage_url)
    assert isinstance(build_writer(storage), RowWriter)
    monkeypatch.setattr(storage.engine.dialect, "name", "mysql")
    assert isinstance(build_writer(storage), PlainWriter)
    monkeypatch.undo()
    monkeypatch.delattr(models, "TrialValueModel")
    assert isinstance(build_writer(storage), PlainWriter)
    monkeypatch.undo()
    table = models.TrialModel.__table__.to_metadata(MetaData())
    table.append_column(Column("new", Integer))
    monkeypatch.setattr(models.TrialModel, "__table__", table)
    assert isinstance(build_writer(storage), PlainWriter)
    monkeypatch.undo()
    monkeypatch.delattr(models.TrialModel, "count_past_trials")
    assert isinstance(build_writer(storage), PlainWriter)
    monkeypatch.undo()
    facts = models.TrialUserAttributeModel.__table__.to_metadata(MetaData())
    (twice,) = (c for c in facts.constraints if isinstance(c, UniqueConstraint))
    facts.constraints.remove(twice)
    monkeypatch.setattr(models.TrialUserAttributeModel, "__table__", facts)
    assert isinstance(build_writer(storage), PlainWriter)


def test_a_waiting_trial_is_taken_once(writer, study):
    trial_id, _ = writer.create(study._study_id, propose(state=TrialState.WAITING))
    assert writer.take(trial_id, {"lease": {"driver": "first"}})
    assert not writer.take(trial_id, {"lease": {"driver": "second"}})
    (trial,) = study.get_trials()
    assert trial.state is TrialState.RUNNING
    assert trial.user_attrs["lease"] == {"driver": "first"}
    assert trial.datetime_start is not None
    writer.finish(trial_id, TrialState.FAIL, None, {})
    assert not writer.take(trial_id, {"lease": {"driver": "third"}})


def test_only_what_is_still_as_it_was_seen_is_released(writer, study):
    trial_id, _ = writer.create(study._study_id, propose())
    assert not writer.release(trial_id, {"lease": {"driver": "another", "round": 0}})
    assert study.get_trials()[0].state is TrialState.RUNNING
    assert writer.release(trial_id, {"lease": {"driver": "me", "round": 0}})
    assert not writer.release(trial_id, {})
    assert study.get_trials()[0].state is TrialState.WAITING
    writer.take(trial_id, {})
    writer.finish(trial_id, TrialState.FAIL, None, {})
    assert not writer.release(trial_id, {})


def test_nobody_writes_between_a_look_at_a_trial_and_its_release(storage_url, monkeypatch):
    storage = optuna.storages.RDBStorage(storage_url)
    trial = optuna.create_study(storage=storage).ask()
    writer = build_writer(storage)
    find = writer._find_trial

    def look(*asked):
        with (
            closing(sqlite3.connect(storage_url.removeprefix("sqlite:///"), timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("update trials set state = state")
        return find(*asked)

    monkeypatch.setattr(writer, "_find_trial", look)
    assert writer.release(trial._trial_id, {})

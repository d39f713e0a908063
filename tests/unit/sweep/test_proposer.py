"""The copy proposes what Optuna's own study would; two drivers do not disturb each other."""

from contextlib import ExitStack

import optuna
import pytest
from optuna.trial import TrialState

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.opening import open_ledger
from mlflow_phi3.sweep.proposer import Proposer
from mlflow_phi3.sweep.samplers import build_sampler
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.sweep.tickets import LEASE

SPACE = {"learning_rate": "1e-4..1e-1", "lora_r": "4..64", "batch_size_multiplier": "1,2,4"}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_space():
    return build_space(parse_values(SweepConfig, {**SPACE, "epochs": "2"}), model="demo", seed=0)


def value(params):
    return abs(params["learning_rate"] - 1e-3) + params["lora_r"] / 100


def end_of(number):
    return TrialState.PRUNED if number else TrialState.COMPLETE


@pytest.mark.parametrize("name", ["tpe", "random", "qmc"])
def test_the_copy_proposes_what_the_study_would(name):
    distributions = make_space().distributions()

    def sampler(number):
        return build_sampler(name, "", seed=3, number=number, n_trials=16)

    plain = optuna.create_study()
    for number in range(16):
        plain.sampler = sampler(number)
        trial = plain.ask(distributions)
        trial.report(value(trial.params), 1)
        pruned = end_of(number) is TrialState.PRUNED
        plain.tell(trial, None if pruned else value(trial.params), state=end_of(number))

    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    proposer = Proposer(study, storage, distributions, sampler)
    for number in range(16):
        if number == 7:  # another process goes on
            proposer = Proposer(study, storage, distributions, sampler)
        proposal = proposer.propose(study.get_trials())
        trial_id = storage.create_new_trial(study._study_id, proposal)
        storage.set_trial_intermediate_value(trial_id, 1, value(proposal.params))
        storage.set_trial_state_values(trial_id, end_of(number), [value(proposal.params)])
    assert [t.params for t in study.trials] == [t.params for t in plain.trials]


@pytest.fixture
def new_proposer():
    study = optuna.create_study()
    distributions = make_space().distributions()

    def sampler(number):
        return build_sampler("tpe", "", seed=3, number=number, n_trials=16)

    return lambda: (study, Proposer(study, study._storage, distributions, sampler))


def test_a_trial_that_waits_is_not_proposed_again(new_proposer):
    study, proposer = new_proposer()
    waiting = {"learning_rate": 0.05, "lora_r": 8, "batch_size_multiplier": 2}
    study.enqueue_trial(waiting)
    assert proposer.propose(study.get_trials()).params not in ({}, waiting)


def test_a_proposal_that_came_to_nothing_is_forgotten(new_proposer):
    study, proposer = new_proposer()
    for number in range(8):
        proposer.propose(study.get_trials())  # another driver's takes its number
        trial = study.ask(make_space().distributions())
        study.tell(trial, float(number))
    fresh = new_proposer()[1].propose(study.get_trials())
    assert proposer.propose(study.get_trials()).params == fresh.params


def test_two_drivers_begun_together_take_turns_on_one_quasi_random_sequence():
    distributions = make_space().distributions()
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)

    def sampler(number):
        return build_sampler("qmc", "", seed=3, number=number, n_trials=16)

    both = [Proposer(study, storage, distributions, sampler) for _ in range(2)]
    for turn in (0, 0, 0, 1, 1, 0):
        storage.create_new_trial(study._study_id, both[turn].propose(study.get_trials()))

    points = {frozenset(trial.params.items()) for trial in study.trials}
    assert len(points) == 6
    assert set(storage.get_study_system_attrs(study._study_id).values()) == {4}


def open_twice(url, **values):
    """Two drivers' ledgers of one study."""
    config = parse_values(SweepConfig, {**SPACE, "pruner": "none", **values})
    space = build_space(config, model="demo", seed=0)
    return [open_ledger(config, space, name="study", url=url, tags={}) for _ in range(2)]


@pytest.fixture
def ledgers(storage_url):
    """Two drivers of one study."""
    made = open_twice(storage_url, epochs="2", n_trials="6")
    with ExitStack() as alive:
        for ledger in made:
            alive.enter_context(beating(ledger.study, ledger.driver))
        yield made


def test_a_proposal_that_came_too_late_does_not_count(ledgers):
    first, second = ledgers
    second.reclaim()  # it has read the study, and sees no trial
    (ticket,) = first.take(1)
    assert second._propose(None) is None
    assert [trial.number for trial in first.trials()] == [ticket.number]
    assert first.study.trials[1].state.name == "FAIL"
    (other,) = second.take(1)
    assert other.spec != ticket.spec
    assert len(first.trials()) == 2


def test_two_drivers_share_a_study_to_the_last_trial(ledgers):
    told = []
    while True:
        taken = [(ledger, ledger.take(2)) for ledger in ledgers]
        if not any(tickets for _, tickets in taken):
            break
        for ledger, tickets in taken:
            for ticket in tickets:
                ledger.complete(ticket, ticket.spec.learning_rate)
                told.append(ticket.number)
    assert sorted(told) == list(range(6))
    rates = [trial.params["learning_rate"] for trial in ledgers[0].trials()]
    assert len(set(rates)) == 6


def test_a_proposal_is_whole_or_not_there(ledgers, monkeypatch):
    ledger = ledgers[0]
    written = []
    create = ledger._writer.create

    def look(study_id, template):
        trial_id, _ = create(study_id, template)
        written.append(ledger._storage.get_trial(trial_id))
        raise KeyboardInterrupt  # the driver dies right after its write

    monkeypatch.setattr(ledger._writer, "create", look)
    with pytest.raises(KeyboardInterrupt):
        ledger.take(1)
    assert set(written[0].params) == set(SPACE)
    assert written[0].user_attrs[LEASE] == {"round": 0, "driver": ledger.driver.name}


def test_a_wish_of_ones_own_is_tried_first(ledgers):
    ledger = ledgers[0]
    ledger.study.enqueue_trial({"learning_rate": 0.05})
    (ticket,) = ledger.take(1)
    assert ticket.spec.learning_rate == 0.05
    assert ticket.number == 0


def test_a_wish_that_cannot_be_is_left_out_and_told(ledgers, caplog):
    ledger = ledgers[0]
    ledger.study.enqueue_trial({"batch_size_multiplier": 3})
    (ticket,) = ledger.take(1)
    assert "trial 0, a wish, is left out: '3' not in (1, 2, 4)" in caplog.text
    assert [trial.number for trial in ledger.trials()] == [ticket.number] == [1]


def test_every_number_of_epochs_is_tried_although_another_driver_comes_between(
    storage_url, monkeypatch
):
    first, second = open_twice(storage_url, epochs="1..3", n_trials="9")
    create = first._writer.create
    with beating(first.study, first.driver), beating(second.study, second.driver):

        def come_between(study_id, trial):
            if len(first.study.get_trials()) == 1:
                second._look()
                second._propose(None)
            return create(study_id, trial)

        monkeypatch.setattr(first._writer, "create", come_between)
        mine = first.take(1)
    rate = mine[0].spec.learning_rate
    assert sorted(t.spec.epochs for t in mine if t.spec.learning_rate == rate) == [1, 2, 3]


def test_a_driver_that_died_before_it_asked_for_the_other_epochs_loses_none(
    storage_url, monkeypatch
):
    dead, heir = open_twice(storage_url, epochs="1..3", n_trials="9")

    def die(trial, first):
        raise KeyboardInterrupt

    monkeypatch.setattr(dead, "_enqueue_siblings", die)
    with pytest.raises(KeyboardInterrupt):
        dead.take(1)
    with beating(heir.study, heir.driver):
        mine = heir.take(1)
    assert sorted(ticket.spec.epochs for ticket in mine) == [1, 2, 3]
    assert len({ticket.spec.trunk for ticket in mine}) == 1


def test_the_size_of_a_round_is_the_studys(ledgers):
    assert ledgers[0].remember_round(4) == 4
    assert ledgers[1].remember_round(2) == 4

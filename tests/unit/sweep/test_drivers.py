import itertools
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import optuna
import psutil
import pytest

from mlflow_phi3.processes import this_process
from mlflow_phi3.sweep.drivers import (
    GRACE_S,
    Driver,
    beating,
    heard_until,
    is_alive,
    spent_by_others,
    this_driver,
)


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study()


def beat(study, driver, at):
    facts = {**asdict(driver.process), "beat_at": at}
    study.set_user_attr(f"driver:{driver.name}", json.dumps(facts))


def test_this_process_lives(study):
    driver = this_driver()
    with beating(study, driver):
        assert is_alive(driver.name, study.user_attrs, now=time.time())
    assert not is_alive("nobody", study.user_attrs, now=time.time())


def test_a_killed_process_of_this_machine_is_dead_at_once(study):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    other = replace(this_process(), pid=process.pid, started=started)
    beat(study, Driver("other", other), at=time.time())
    assert is_alive("other", study.user_attrs, now=time.time())
    process.kill()
    process.communicate()
    assert not is_alive("other", study.user_attrs, now=time.time())


def test_a_later_process_with_the_same_number_is_another(study):
    me = this_process()
    beat(study, Driver("before", replace(me, started=me.started - 1000)), at=time.time())
    assert not is_alive("before", study.user_attrs, now=time.time())


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"processes": "a container's"}])
def test_who_is_elsewhere_is_known_by_the_heartbeat(study, elsewhere):
    beat(study, Driver("far", replace(this_process(), pid=1, **elsewhere)), at=1000.0)
    assert is_alive("far", study.user_attrs, now=1000.0 + GRACE_S / 2)
    assert not is_alive("far", study.user_attrs, now=1000.0 + GRACE_S * 2)


def test_the_heart_beats_on_after_one_that_failed(study, monkeypatch):
    driver = this_driver()
    key = f"driver:{driver.name}"
    note, beats = study.set_user_attr, itertools.count()

    def fail_once(*fact):
        if next(beats) == 1:
            raise OSError("nobody answers")
        note(*fact)

    monkeypatch.setattr(study, "set_user_attr", fail_once)
    with beating(study, driver, every_s=0.01):
        first = study.user_attrs[key]
        began = json.loads(first)["began_at"]
        assert heard_until(driver.name, study.user_attrs) == began
        deadline = time.monotonic() + 10
        while study.user_attrs[key] == first:
            assert time.monotonic() < deadline
    assert began <= heard_until(driver.name, study.user_attrs) < time.time()


def test_the_last_beat_is_at_the_end(study, monkeypatch):
    driver, end = this_driver(), time.time() + 100.0
    with beating(study, driver):
        monkeypatch.setattr(time, "time", lambda: end)
    assert spent_by_others(study.user_attrs, "another") == pytest.approx(100.0, abs=5.0)


def test_what_earlier_drivers_worked_is_known(study):
    first, second = this_driver(), this_driver()
    with beating(study, first):
        pass
    told = json.loads(study.user_attrs[f"driver:{first.name}"])
    ago = {**told, "began_at": told["beat_at"] - 90.0}
    study.set_user_attr(f"driver:{first.name}", json.dumps(ago))
    assert spent_by_others(study.user_attrs, second.name) == pytest.approx(90.0)
    assert spent_by_others(study.user_attrs, first.name) == 0.0

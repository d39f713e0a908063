import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from sqlalchemy import create_engine, text

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.tracking import signals
from mlflow_phi3.tracking.signals import stoppable
from mlflow_phi3.tracking.transactions import observe_transactions


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(signals, "_POLL_S", 0.05)


@pytest.fixture
def engine(tmp_path):
    observe_transactions()
    engine = create_engine(f"sqlite:///{tmp_path}/some.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE seen (x INTEGER)"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_order_to_stop_raises_where_the_work_is(number):
    before = signal.getsignal(number)

    with pytest.raises(Interrupted, match=signal.Signals(number).name), stoppable(None):
        os.kill(os.getpid(), number)
        time.sleep(5)

    assert signal.getsignal(number) is before


def test_libraries_that_catch_every_exception_do_not_catch_an_order():
    with pytest.raises(Interrupted), stoppable(None), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_second_order_does_not_tear_the_clean_up_apart():
    told = []
    with pytest.raises(Interrupted, match="SIGINT"), stoppable(None):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            told.append("cleaned up")

    assert told == ["cleaned up"]


def test_a_long_clean_up_is_not_torn_apart():
    told = []
    with pytest.raises(Interrupted), stoppable(None, patience_s=0.2):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            time.sleep(0.6)
            told.append("cleaned up")

    assert told == ["cleaned up"]


def test_an_order_that_a_library_raises_anew_is_ours_again():
    with pytest.raises(Interrupted, match="SIGTERM") as stopped, stoppable(None):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            plain = KeyboardInterrupt()
            plain.add_note("how to go on")
            raise plain from None

    assert stopped.value.__notes__ == ["how to go on"]


def test_the_clean_up_after_an_order_that_a_library_raised_anew_is_not_torn_apart():
    told = []
    with pytest.raises(Interrupted), stoppable(None, patience_s=0.2):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        try:
            raise KeyboardInterrupt
        finally:
            time.sleep(0.6)
            told.append("cleaned up")

    assert told == ["cleaned up"]


def test_no_reminder_comes_when_the_handlers_of_before_are_back(monkeypatch):
    before, met = signal.getsignal(signal.SIGTERM), []
    looked, ended = threading.Event(), threading.Event()

    def overdue(_):
        looked.set()
        ended.wait(0.2)
        return True

    monkeypatch.setattr(signals._Watch, "_is_overdue", overdue)
    monkeypatch.setattr(os, "kill", lambda *_: met.append(signal.getsignal(signal.SIGTERM)))
    with stoppable(None):
        assert looked.wait(10)
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "stoppable":
            thread.join(10)

    assert before not in met


def test_who_orders_again_after_a_while_is_heard():
    with (
        pytest.raises(Interrupted) as torn,
        stoppable(None, patience_s=0.2),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(lambda: (time.sleep(0.5), os.kill(os.getpid(), signal.SIGINT)))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    assert isinstance(torn.value.__context__, Interrupted)


# What a finaliser raises is lost, and pytest warns of it: here that is what happens.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_order_that_is_lost_in_a_finaliser_is_given_again():
    class Closes:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with pytest.raises(Interrupted, match="SIGINT"), stoppable(None, patience_s=0.2):
        Closes()
        time.sleep(10)


def test_an_order_waits_for_the_end_of_a_transaction(engine):
    with pytest.raises(Interrupted, match="SIGINT"), stoppable(None):
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO seen VALUES (1)"))
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            connection.execute(text("INSERT INTO seen VALUES (2)"))
        time.sleep(5)

    with engine.connect() as other:
        assert list(other.scalars(text("SELECT x FROM seen"))) == [1, 2]


def test_an_order_does_not_wait_for_a_transaction_that_does_not_end(engine):
    with (
        pytest.raises(Interrupted, match="SIGTERM"),
        stoppable(None, patience_s=0.2),
        engine.begin(),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)


def test_an_order_does_not_wait_for_a_transaction_of_another_thread(engine):
    begun, done = threading.Event(), threading.Event()

    def hold():
        with engine.begin():
            begun.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        with pytest.raises(Interrupted), stoppable(None):
            assert begun.wait(10)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
    finally:
        done.set()
        thread.join()


def test_a_connection_that_is_lost_holds_no_order_back(engine):
    connection = engine.connect()
    connection.invalidate()
    del connection

    with pytest.raises(Interrupted), stoppable(None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)


def test_the_end_of_the_launcher_stops_the_work():
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(Interrupted), stoppable(psutil.Process(launcher.pid)):
            launcher.kill()
            time.sleep(10)
    finally:
        launcher.kill()
        launcher.wait()

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.tracking.signals import is_alive, stoppable


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


# What a finaliser raises is lost, and pytest warns of it: here that is what happens.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_order_that_is_lost_in_a_finaliser_is_given_again():
    class Closes:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with pytest.raises(Interrupted, match="SIGTERM"), stoppable(None, patience_s=0.2):
        Closes()
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


def test_a_process_that_ended_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", ""])
    handle = psutil.Process(process.pid)
    process.wait()

    assert not is_alive(handle)
    assert not is_alive(None)
    assert is_alive(psutil.Process())

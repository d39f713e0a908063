import os
import subprocess
import sys

import pytest

from mlflow_phi3.processes import Process, is_alive, this_process


def test_a_process_that_ended_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(process.pid)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it waits for its parent now
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)


@pytest.mark.parametrize(
    "process", [this_process(), Process("a-mac", "", 7, 1.5)], ids=["ours", "another's"]
)
def test_a_process_is_read_back_from_its_text(process):
    assert Process.parse(str(process)) == process

import os
import subprocess
import sys

from mlflow_phi3.processes import is_alive


def test_a_process_that_ended_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(process.pid)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it waits for its parent now
    assert not is_alive(process.pid)
    process.wait()
    assert not is_alive(process.pid)

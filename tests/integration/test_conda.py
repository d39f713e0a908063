import shutil
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

ACTIVATE = """\
conda() {{ . "{home}/envs/$2/bin/activate"; }}
"""


@pytest.fixture
def conda_home(tmp_path):
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    (home / "envs").mkdir()
    (home / "etc" / "profile.d").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("conda_shim.py"), home / "bin" / "conda_shim.py")
    conda = home / "bin" / "conda"
    conda.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{home}/bin/conda_shim.py" "$@"\n')
    conda.chmod(0o755)
    (home / "etc" / "profile.d" / "conda.sh").write_text(ACTIVATE.format(home=home))
    return home


@pytest.mark.timeout(900)
def test_plain_mlflow_run_makes_its_environment_from_conda_yaml(start, project, conda_home):
    run = start(
        "mlflow",
        "run",
        ".",
        "-e",
        "prepare",
        "-P",
        "on_eror=fail",
        MLFLOW_CONDA_HOME=str(conda_home),
    )
    told, _ = run.communicate(timeout=900)

    # The environment was made and the program ran in it: it refused what it should refuse.
    assert "Creating conda environment" in told
    assert "PHI3-U004 on_eror: unknown parameter. Fix: did you mean 'on_error'?" in told
    assert run.returncode != 0
    runs = MlflowClient(f"sqlite:///{project}/mlflow.db").search_runs(["0"])
    assert [run.info.status for run in runs] == ["FAILED"]

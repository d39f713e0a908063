"""What is started where vLLM is installed: its command line, to the last step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.serving.vllm import run_vllm, vllm_command

CONFIG = ServeConfig(serve_engine="vllm", host="0.0.0.0", port=8123)


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """A command of that name which tells how it was called: vLLM itself needs a GPU."""
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return command


def test_the_process_becomes_vllms_server(vllm, folder):
    words = ["--serve_engine", "vllm", "--port", "8123", "--host", "0.0.0.0"]
    told = subprocess.run(
        [sys.executable, "-m", "mlflow_phi3.serving", str(folder), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == vllm_command(folder, CONFIG, name="phi")[1:]


def test_its_words(folder):
    words = vllm_command(folder, CONFIG, name="phi")
    assert words[:3] == ["vllm", "serve", str(folder)]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--host": "0.0.0.0",
        "--port": "8123",
        "--served-model-name": "phi",
        "--override-generation-config": '{"temperature": 0.0}',
    }


def test_without_vllm_the_mend_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match=r"PHI3-P043 .* serve_engine=transformers"):
        run_vllm(folder, CONFIG, name="phi")


def test_what_vllm_cannot_serve_is_refused_before(vllm, classifier, tmp_path):
    for folder in (classifier[1], tmp_path, Path("missing")):
        with pytest.raises(PreflightError, match="PHI3-P044"):
            run_vllm(folder, CONFIG, name="phi")

"""`mlflow deployments run-local` over both kinds of models, asked by real clients."""

import signal
import sys
from pathlib import Path

import httpx
import openai
import pytest

from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import save_checkpoint
from mlflow_phi3.serving.package import package_chat, package_labels
from mlflow_phi3.tracking.registry import save_model
from tests.running import free_port, running
from tests.tiny_phi3 import write_checkpoint

MLFLOW = str(Path(sys.executable).with_name("mlflow"))


def run_local(model, port):
    words = ("--name", "tiny", "-m", str(model), "-C", f"port={port}")
    return [MLFLOW, "deployments", "run-local", "-t", "azure-foundry", *words]


def test_run_local_serves_a_chat_model_until_it_is_told_to_end(tmp_path, environment):
    folder = write_checkpoint(tmp_path / "checkpoint")
    save_model(package_chat(folder, tmp_path / "code"), tmp_path / "model")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(run_local(tmp_path / "model", port), f"{url}/health", env=environment) as process:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "hold the light"}],
                max_tokens=5,
                stream=True,
            )
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        body = {"messages": [{"role": "user", "content": "hold the light"}], "max_tokens": 5}
        whole = httpx.post(f"{url}/invocations", json=body, timeout=60).json()
        assert whole["choices"][0]["message"]["content"] == said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_run_local_serves_a_classifier(tmp_path, environment):
    base = load_base(str(write_checkpoint(tmp_path / "base")), precision="float32")
    labelled = with_labels(base, ("fault", "order"))
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(labelled.model, labelled, tmp_path / "checkpoint")
    save_model(package_labels(tmp_path / "checkpoint", tmp_path / "code"), tmp_path / "model")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(run_local(tmp_path / "model", port), f"{url}/health", env=environment):
        answer = httpx.post(f"{url}/invocations", json={"text": "It is late."}, timeout=60).json()
        assert answer["label"] in {"fault", "order"}
        assert answer["score"] == pytest.approx(0.5)  # two labels, an untrained head
        chat = httpx.post(f"{url}/v1/chat/completions", json={"messages": []}, timeout=60)
        assert (chat.status_code, chat.json()["error"]["code"]) == (400, "PHI3-U050")

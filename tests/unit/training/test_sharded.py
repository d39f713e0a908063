"""Two processes that share one base by FSDP, over gloo, are one process."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import EvaluationReport, StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec
from tests.tiny_phi3 import write_checkpoint

SPEC = TrialSpec(
    3e-3,
    epochs=2,
    per_device_batch_size=3,
    lora=LoraSpec(r=4, alpha=8),
    max_grad_norm=0.5,
    weight_decay=0.1,
    seed=4,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load_base(str(folder), precision="float32")


@pytest.fixture(scope="module")
def data(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [
        [("user", f"hold {'the light ' * (at % 5)}{at}"), ("assistant", f"blue {at} until")]
        for at in range(23)
    ]
    lines = [
        json.dumps({"messages": [{"role": role, "content": text} for role, text in row]})
        for row in rows
    ]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = PrepareConfig(
        train_data=str(folder / "chats.jsonl"), validation_split=0.2, clean_near_duplicates=False
    )
    return prepare(config, base.tokenizer, folder=folder / "prepared", context_length=256)


@pytest.fixture
def start(base, data, tmp_path):
    """Start two processes that train ``SPEC`` together into a folder."""

    def begin(out, **changes):
        options = {
            "model": base.name,
            "precision": "float32",
            "prepared": data.folder,
            "out": tmp_path / out,
            "token_budget": 40,  # several passes, not as many in each process
            "learning_rate": SPEC.learning_rate,
            "epochs": SPEC.epochs,
            "per_device_batch_size": SPEC.per_device_batch_size,
            "lora_r": SPEC.lora.r,
            "lora_alpha": SPEC.lora.alpha,
            "max_grad_norm": SPEC.max_grad_norm,
            "weight_decay": SPEC.weight_decay,
            "seed": SPEC.seed,
        }
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*launcher, "--nproc-per-node=2", "-m", "mlflow_phi3.training.sharded"]
        command += [f"--{name}={value}" for name, value in (options | changes).items()]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return begin


def read(process):
    told, problem = process.communicate()
    assert process.returncode == 0, problem[-3000:]
    return [json.loads(line) for line in told.splitlines()]


def adapters(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_two_processes_are_one(start, base, data, tmp_path):
    told = read(start("two"))

    train, validation = data.examples("train"), data.examples("validation")
    assert len(train) % SPEC.per_device_batch_size  # the last batch of an epoch is smaller
    session = Session(base, train, validation, folder=tmp_path, engine="reference")
    session.add("one", SPEC)
    expected = list(session.reports())
    steps = [report for report in expected if isinstance(report, StepReport)]
    assert len(steps) > 4
    for mine, theirs in zip([t for t in told if "grad_norm" in t], steps, strict=True):
        assert mine["loss"] == pytest.approx(theirs.loss, rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs.grad_norm, rel=1e-4)
        assert mine["learning_rate"] == theirs.learning_rate
        assert mine["tokens"] == theirs.tokens
    scores = [report for report in expected if isinstance(report, EvaluationReport)]
    for mine, theirs in zip([t for t in told if "perplexity" in t], scores, strict=True):
        assert mine["loss"] == pytest.approx(theirs.loss, rel=1e-5)
        assert mine["token_accuracy"] == pytest.approx(theirs.token_accuracy)
        assert mine["best"] == theirs.best
    for name in ("last", "best"):
        got, wanted = (adapters(tmp_path / who / name) for who in ("two", "one"))
        assert got.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert float((got[key] - tensor).abs().max()) <= 1e-4 * float(tensor.abs().max())
    with with_adapter(base, tmp_path / "two" / "best"):
        pass  # PEFT reads it


@pytest.mark.slow
def test_who_was_killed_goes_on_and_learns_the_same(start, tmp_path):
    undisturbed = read(start("whole"))
    killed = start("torn", checkpoint_s=0)
    before = [json.loads(killed.stdout.readline()) for _ in range(4)]
    for process in psutil.Process(killed.pid).children(recursive=True):
        process.kill()
    killed.communicate()
    after = read(start("torn"))

    def numbers(reports):
        return {r["step"]: (r["loss"], r["grad_norm"]) for r in reports if "grad_norm" in r}

    assert 1 < min(numbers(after)) <= 5
    assert numbers(before) | numbers(after) == numbers(undisturbed)
    for name in ("last", "best"):
        first, second = (adapters(tmp_path / who / name) for who in ("whole", "torn"))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert read(start("torn")) == []  # there is nothing left to do
    other = start("torn", learning_rate=1e-4)
    assert "PHI3-T014" in other.communicate()[1]


@pytest.mark.slow
def test_one_device_goes_on_where_several_have_stopped(start, base, data, tmp_path):
    told = [report["loss"] for report in read(start("two")) if "perplexity" in report]
    read(start("some", epochs=1))
    train, validation = data.examples("train"), data.examples("validation")
    session = Session(base, train, validation, folder=tmp_path, engine="reference")
    session.add("some", SPEC, resume=True)
    scores = [r.loss for r in session.reports() if isinstance(r, EvaluationReport)]
    assert scores == pytest.approx(told[1:], rel=1e-5)

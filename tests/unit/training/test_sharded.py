"""Two processes that share one base by FSDP, over gloo, are one process; some of it alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.modeling import base as modeling
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.training import sharded
from mlflow_phi3.training.checkpoint import load_progress
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
OFTEN = replace(SPEC, evaluations_per_epoch=2)


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
    """Start two processes that train ``OFTEN`` together into a folder."""

    def begin(out, **changes):
        options = {
            "model": base.name,
            "precision": "float32",
            "prepared": data.folder,
            "out": tmp_path / out,
            "token_budget": 40,  # several passes, not as many in each process
            "learning_rate": SPEC.learning_rate,
            "epochs": SPEC.epochs,
            "evaluations_per_epoch": OFTEN.evaluations_per_epoch,
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


@pytest.fixture
def alone(monkeypatch):
    """A group of this process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield sharded.Group(0, 1, torch.device("cpu"))
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture
def train(alone, new_base, new_examples, tmp_path):
    """Train a tiny model in this process."""

    def begin(spec=SPEC, **options):
        examples = new_examples((9, 14, 11, 8, 12, 10))
        held = new_examples((10, 13), seed=5)
        return sharded.train_sharded(
            new_base(), examples, held, spec, group=alone, folder=tmp_path / "alone", **options
        )

    return begin


def test_what_is_not_finite_is_neither_applied_nor_kept(train, tmp_path):
    spec = replace(SPEC, learning_rate=1e30, per_device_batch_size=2)
    reports = train(spec, checkpoint_s=0)
    with pytest.raises(
        TrainingError, match=r"PHI3-T003 sharded: loss nan, gradient norm nan at step 3"
    ):
        list(reports)
    last = tmp_path / "alone" / "last"
    assert load_progress(last).step == 2
    assert all(np.isfinite(tensor.numpy()).all() for tensor in adapters(last).values())


def test_an_epoch_that_is_not_finite_is_not_kept(train, tmp_path):
    spec = replace(SPEC, learning_rate=1e30, per_device_batch_size=6)
    with pytest.raises(TrainingError, match="PHI3-T003 sharded: validation loss nan at step 1"):
        list(train(spec))
    assert not (tmp_path / "alone").exists()


def test_a_long_epochs_end_counts_as_a_checkpoint(train, monkeypatch):
    now, saved = count(), []
    keep = sharded._save

    def save(spread, progress, *others, **options):
        saved.append(progress.step)
        keep(spread, progress, *others, **options)

    monkeypatch.setattr(sharded, "_save", save)
    # Whoever looks at it finds that a second has gone.
    monkeypatch.setattr(sharded, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    list(train(checkpoint_s=4.0))
    assert saved == [2, 4]


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 1024), ("cuda", 2048)])
def test_a_pass_is_as_long_as_its_device_takes(train, alone, monkeypatch, device, tokens):
    budgets = []
    monkeypatch.setattr(sharded, "_step", lambda *given: budgets.append(given[-1]))
    monkeypatch.setitem(sharded.TOKEN_BUDGET, "cpu", sharded.TOKEN_BUDGET[device])
    next(train())
    next(train(token_budget=40))
    assert budgets == [tokens, 40]


def test_the_precision_is_the_groups_not_the_hosts(base, data, alone, monkeypatch):
    """On a GPU host the base is read on the CPU, whose opinion does not count."""
    loaded = []
    monkeypatch.setattr(modeling, "has_bfloat16", lambda device: device == "cuda")
    monkeypatch.setattr(sharded, "join", lambda: replace(alone, device=torch.device("cuda")))
    monkeypatch.setattr(sharded, "train_sharded", lambda base, *a, **k: loaded.append(base) or ())
    words = [f"--model={base.name}", f"--prepared={data.folder}", "--out=out"]
    monkeypatch.setattr(sys, "argv", ["sharded", *words, "--learning_rate=1e-3"])
    sharded.main()
    assert loaded[0].model.dtype == torch.bfloat16
    assert loaded[0].model.device.type == "cpu"


@pytest.mark.slow
def test_two_processes_are_one(start, base, data, tmp_path):
    told = read(start("two"))

    train, validation = data.examples("train"), data.examples("validation")
    assert len(train) % SPEC.per_device_batch_size  # the last batch of an epoch is smaller
    session = Session(base, train, validation, folder=tmp_path, engine="reference")
    session.add("one", OFTEN)
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
        assert (mine["number"], mine["epoch"]) == (theirs.number, theirs.epoch)
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
    session.add("some", OFTEN, resume=True)
    scores = [r.loss for r in session.reports() if isinstance(r, EvaluationReport)]
    assert scores == pytest.approx(told[2:], rel=1e-5)

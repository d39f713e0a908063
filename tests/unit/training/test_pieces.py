"""Schedules, optimizers, scores and capacity."""

import math
import weakref
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from mlflow_phi3.config.plugins import find_named
from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import UsageError
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training import memory, probe
from mlflow_phi3.training.capacity import choose_concurrency, measure_trial_bytes
from mlflow_phi3.training.choice import choose_engine
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.engine.fused import FusedEngine
from mlflow_phi3.training.engine.loss import get_loss
from mlflow_phi3.training.memory import free_bytes, is_out_of_memory
from mlflow_phi3.training.optimizer import clip_gradient, make_optimizer
from mlflow_phi3.training.peft_files import save_adapter
from mlflow_phi3.training.reference import alike
from mlflow_phi3.training.schedule import Schedule, order_examples
from mlflow_phi3.training.scoring import score
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

SPEC = TrialSpec(1e-3, epochs=3, per_device_batch_size=2, lora=LoraSpec(r=4))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")],
)
@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_rates_are_those_of_transformers(ours, theirs, ratio):
    schedule = Schedule(replace(SPEC, scheduler=ours, warmup_ratio=ratio), n_examples=21)
    assert schedule.steps_per_epoch == 11
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    scheduler = get_scheduler(
        theirs, optimizer, num_warmup_steps=math.ceil(ratio * 11), num_training_steps=33
    )
    for step in range(schedule.total_steps):
        assert schedule.learning_rate(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "wsd"])
def test_an_epoch_of_one_step_learns(scheduler):
    schedule = Schedule(
        replace(SPEC, scheduler=scheduler, warmup_ratio=0.03, epochs=1), n_examples=2
    )
    assert schedule.total_steps == 1
    assert schedule.learning_rate(0) == pytest.approx(1e-3)


def test_warm_stable_decay():
    schedule = Schedule(replace(SPEC, scheduler="wsd", warmup_ratio=0.0), n_examples=20)
    rates = [schedule.learning_rate(step) for step in range(30)]
    assert rates[:25] == [1e-3] * 25
    assert rates[25:] == pytest.approx([1e-3 * (1 - k / 6) for k in range(1, 6)])


def test_batches_cover_each_epoch_once():
    schedule = Schedule(SPEC, n_examples=7)
    bounds = [schedule.batch(step) for step in range(schedule.total_steps)]
    assert bounds[:5] == [(0, 0, 2), (0, 2, 4), (0, 4, 6), (0, 6, 7), (1, 0, 2)]
    order = order_examples(SPEC, 1, 7)
    assert sorted(order) == list(range(7))
    assert list(order) == list(order_examples(SPEC, 1, 7))
    assert list(order) != list(order_examples(SPEC, 2, 7))
    assert list(order) != list(order_examples(replace(SPEC, seed=1), 1, 7))
    assert list(order_examples(replace(SPEC, shuffle=False), 1, 7)) == list(range(7))


def test_trunks_differ_in_what_matters_alone():
    assert SPEC.trunk == replace(SPEC, epochs=1).trunk
    assert SPEC.trunk == replace(SPEC, per_device_batch_size=1, batch_size_multiplier=2).trunk
    assert SPEC.trunk != replace(SPEC, learning_rate=2e-3).trunk
    linear = replace(SPEC, scheduler="linear")
    assert linear.trunk != replace(linear, epochs=1).trunk


def test_clipping_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(50))
    for limit in (0.5, 100.0):
        gradient = torch.randn(50, generator=torch.Generator().manual_seed(1))
        parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([parameter], limit)
        assert clip_gradient(gradient, limit) == pytest.approx(float(norm))
        assert torch.allclose(gradient, parameter.grad)
    left = gradient.clone()
    clip_gradient(gradient, 0.0)
    assert torch.equal(gradient, left)


def test_scores_stream_in_order_and_do_not_depend_on_the_passes(new_base, new_examples, tmp_path):
    base, examples = new_base(), new_examples((9, 14, 23, 11, 30, 6), prefix=5)
    linear = find_linear(base.model)
    layout = plan_layout(linear, SPEC.lora)
    save_adapter(tmp_path, layout, initial_weights(linear, layout, 0) + 0.02, "base")
    for adapter in (None, tmp_path):
        whole = list(score(base, adapter, iter(examples)))
        pieces = list(score(base, adapter, iter(examples), token_budget=20))
        plain = list(score(base, adapter, iter(examples), engine="reference"))
        assert [one.place for one in whole] == [example.place for example in examples]
        for other in (pieces, plain):
            assert [o.nll for o in other] == pytest.approx([w.nll for w in whole], rel=1e-5)
            assert [(o.tokens, o.correct) for o in other] == [(w.tokens, w.correct) for w in whole]
        assert whole[0].loss == whole[0].nll / whole[0].tokens


def test_what_the_fused_engine_does_not_know_goes_to_the_reference(new_base, caplog):
    base = new_base()
    assert choose_engine(base, "auto", SPEC) == "fused"
    assert choose_engine(base, "reference", SPEC) == "reference"
    dora = replace(SPEC, lora=LoraSpec(dora=True))
    assert choose_engine(base, "auto", dora) == "reference"
    assert "slower: dora" in caplog.text
    with pytest.raises(UsageError, match="PHI3-U063"):
        choose_engine(base, "fused", dora)


def test_capacity_grows_with_memory_and_shrinks_with_rank(new_base, new_examples):
    base, examples = new_base(), new_examples((30, 12, 8))
    small = measure_trial_bytes(base, examples, SPEC, token_budget=64)
    big = measure_trial_bytes(base, examples, replace(SPEC, lora=LoraSpec(r=64)), token_budget=64)
    layout = plan_layout(find_linear(base.model), SPEC.lora)
    assert small > 16 * layout.size  # weights, gradient and two moments at the least
    assert big > 2 * small
    more = plan_layout(find_linear(base.model), LoraSpec(r=64)).size - layout.size
    assert big - small >= 16 * more
    fits = [
        choose_concurrency(base, examples, SPEC, token_budget=64, budget_bytes=count * small)
        for count in (0, 1, 2, 3, 100)
    ]
    assert fits == [1, 1, 2, 3, 4]
    assert free_bytes(torch.device("cpu")) > 0


def test_memory_that_a_container_can_have_back_is_free(monkeypatch, tmp_path):
    group = {"memory.max": "9000000", "memory.current": "8000000"}
    group["memory.stat"] = "anon 1000000\nactive_file 2000000\ninactive_file 5000000\n"
    for name, text in group.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 6_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 9_000_000


def test_what_torch_holds_of_a_gpu_unused_is_free(monkeypatch):
    of_card = {"mem_get_info": (2, 140), "memory_reserved": 137, "memory_allocated": 8}
    for name, value in of_card.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_bytes(torch.device("cuda")) == 2 + 137 - 8


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_is_short(error, short):
    assert is_out_of_memory(error) is short


def test_capacity_holds_no_more_rows_than_a_batch(new_base, new_examples):
    """Rows are read from the disk one after the other, and there may be many."""
    alive, most = [], 0

    class Row(Example):
        __slots__ = ("__weakref__",)

    class Rows(list):
        def __iter__(self):
            nonlocal most
            for example in super().__iter__():
                row = Row(example.input_ids, example.supervised, example.place)
                alive.append(weakref.ref(row))
                most = max(most, sum(each() is not None for each in alive))
                yield row
                del row

    rows = Rows(new_examples(range(8, 48)))
    spec = replace(SPEC, per_device_batch_size=2)
    measure_trial_bytes(new_base(), rows, spec, token_budget=64)
    assert 2 <= most <= 4  # the batch, the next one, and the one before


def test_a_probe_times_scoring_without_checkpoints(monkeypatch, new_base, new_examples):
    clock = [0.0]

    def takes(seconds, method):
        def slowly(*given, **named):
            clock[0] += seconds
            return method(*given, **named)

        return slowly

    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(disk, "_sync", takes(1000.0, disk._sync))
    for name, seconds in (("accumulate_gradients", 2.0), ("score", 0.5)):
        monkeypatch.setattr(FusedEngine, name, takes(seconds, getattr(FusedEngine, name)))
    held = new_examples((10, 13, 17), seed=5)
    train = new_examples([12] * 9)
    spec = replace(SPEC, per_device_batch_size=3, evaluations_per_epoch=9)  # not of a sample
    told = []
    found = probe.probe(
        new_base(), train, held, spec, side_by_side=2, steps=2, on_step=lambda *at: told.append(at)
    )
    assert sorted(set(told)) == [(1, 3), (2, 3), (3, 3)]
    assert found.trained_tokens == 2 * 2 * 36
    assert found.train_tokens_per_s == 2 * 2 * 36 / 4.0
    assert found.validation_tokens_per_s == 2 * 40 / 0.5
    few = train[:3]
    alone = probe.probe(
        new_base(), few, held, spec, side_by_side=1, steps=2, on_step=lambda *_: None
    )
    assert alone.train_tokens_per_s == 36 / 2.0  # its only step counts
    assert found.checkpoint_bytes == pytest.approx(alone.checkpoint_bytes, rel=0.05)
    assert probe._spread(range(10), 3) == [0, 3, 6]


def test_capacity_is_measured_on_a_pass_that_happens(new_base, new_examples):
    """A pass ends with the batch, however many tokens it might take."""
    base, examples = new_base(), new_examples((30, 30, 12, 8))
    alone = replace(SPEC, per_device_batch_size=1)
    one = measure_trial_bytes(base, examples[:1], SPEC, token_budget=64)
    assert measure_trial_bytes(base, examples, alone, token_budget=64) == one
    assert measure_trial_bytes(base, examples, SPEC, token_budget=64) > one


@pytest.mark.parametrize(
    ("group", "find"),
    [
        ("mlflow_phi3.losses", lambda: get_loss(replace(SPEC, loss="mine"), torch.device("cpu"))),
        (
            "mlflow_phi3.optimizers",
            lambda: make_optimizer(replace(SPEC, optimizer="mine"), [torch.zeros(1)]),
        ),
    ],
)
def test_other_packages_add_names(tmp_path, monkeypatch, group, find):
    (tmp_path / "mine.py").write_text(
        "def make(*a, **k):\n    return ('mine', len(a), sorted(k))\n"
    )
    folder = tmp_path / "mine-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (folder / "entry_points.txt").write_text(f"[{group}]\nmine = mine:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = find()
    made = found("logits", "targets") if callable(found) else found
    assert made[0] == "mine"
    assert made[1:] == ((2, ["class_weights", "label_smoothing"]) if callable(found) else (3, []))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("missing_of_another:make", "cannot be loaded: ModuleNotFoundError: "),
        ("json:no_such", "cannot be loaded: AttributeError: "),
        ("math:pi", "is float, which cannot be used"),
    ],
)
def test_a_package_that_cannot_be_used_is_told(monkeypatch, value, told):
    entry = EntryPoint("theirs", value, "mlflow_phi3.losses")
    monkeypatch.setattr("mlflow_phi3.config.plugins.entry_points", lambda group: [entry])
    where = f"entry point theirs = {value} of mlflow_phi3.losses"
    with pytest.raises(UsageError, match=rf"PHI3-U060 {where}: {told}.* Fix: mend or uninstall"):
        find_named("theirs", {}, group="mlflow_phi3.losses", where="loss", code="PHI3-U060")


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_what_is_padded_together_is_at_least_half_real(lengths, new_base, new_examples):
    examples = new_examples(lengths)
    parts = list(alike(new_base("longrope").model, examples))
    assert sorted(id(e) for part in parts for e in part) == sorted(map(id, examples))
    for part in parts:
        own = [len(example.input_ids) for example in part]
        assert len(own) * max(own) <= 2 * sum(own)
        assert len({length > 24 for length in own}) == 1


def test_the_engine_stays_small():
    files = [*Path("mlflow_phi3/training/engine").glob("*.py")]
    assert len(files) == 11
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 1500

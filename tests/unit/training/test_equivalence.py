"""Both engines against Hugging Face + PEFT on padded batches, every option on and off.

Tolerances: 1e-5 of the largest gradient in float32; in bfloat16, whose epsilon is 8e-3, 3 % of the
gradient's norm against a float32 run of the same rounded weights.
"""

import copy
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch.nn import functional

from mlflow_phi3.errors import TrainingError
from mlflow_phi3.training.choice import choose_engine
from mlflow_phi3.training.engine import fused
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.engine.fused import FusedEngine
from mlflow_phi3.training.engine.interface import Row
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.peft_files import peft_config
from mlflow_phi3.training.reference import ReferenceEngine
from mlflow_phi3.training.reports import StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

ARCHITECTURES = ("phi3", "phi4-mini", "longrope", "window")
LENGTHS = (9, 14, 23, 11, 30, 6)
LORA = LoraSpec(r=4, alpha=6)
SPEC = TrialSpec(1e-2, lora=LORA)


def new_row(base, spec=SPEC, *, seed=0, scale=0.05):
    """A row whose B is not zero, so that A has a gradient."""
    layout = plan_layout(find_linear(base.model), spec.lora)
    weights = initial_weights(find_linear(base.model), layout, seed)
    weights += 0.05 * torch.randn(layout.size, generator=torch.Generator().manual_seed(seed + 1))
    return Row(spec, layout, weights, torch.zeros_like(weights), scale)


def plain(base, row, examples, dtype=torch.float32):
    """Loss sum and gradient by transformers and PEFT alone, padded."""
    config = peft_config(row.layout, "tiny")
    config.inference_mode = False
    config.base_model_name_or_path = None
    model = copy.deepcopy(base.model).to(dtype)
    model = get_peft_model(model, config)
    named = {
        name.replace(".default", "").replace(".modules_to_save", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    for name, view in row.layout.views(row.weights).items():
        key = name + ".weight" if name.endswith("vector") else name
        named[key].data.copy_(view)
    context = base.model.config.rope_parameters.get("original_max_position_embeddings", 10**9)
    total = 0.0
    for beyond in (False, True):
        part = [e for e in examples if (len(e.input_ids) > context) is beyond]
        if not part:
            continue
        longest = max(len(e.input_ids) for e in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for at, example in enumerate(part):
            tokens = torch.from_numpy(example.input_ids).long()
            ids[at, : len(tokens)], mask[at, : len(tokens)] = tokens, 1
            wanted = torch.from_numpy(example.supervised)
            labels[at, : len(tokens)] = torch.where(wanted, tokens, -100)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            labels[:, 1:].flatten(),
            reduction="sum",
            label_smoothing=row.spec.label_smoothing,
        )
        (loss * row.scale).backward()
        total += float(loss.detach())
    gradient = torch.zeros_like(row.weights)
    for name, view in row.layout.views(gradient).items():
        view.copy_(named[name + ".weight" if name.endswith("vector") else name].grad)
    return total, gradient


def close(got, expected, tolerance=1e-5):
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"share_prefix": False},
        {"trim": False},
        {"share_prefix": False, "trim": False},
        {"recompute": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", [0, 5])
def test_fused_is_plain(new_base, new_examples, architecture, options, prefix):
    base, examples = new_base(architecture), new_examples(LENGTHS, prefix=prefix)
    row = new_row(base)
    (loss,) = FusedEngine(base, **options).accumulate_gradients(examples, [row])
    expected, gradient = plain(base, row, examples)
    assert loss == pytest.approx(expected, rel=1e-5)
    close(row.gradient, gradient)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recompute", [False, True])
def test_fused_over_four_bits_is_plain(
    new_base, in_four_bits, new_examples, architecture, recompute
):
    whole, examples = new_base(architecture, in_blocks=True), new_examples(LENGTHS, prefix=5)
    base = in_four_bits(whole)
    assert choose_engine(base, "auto", SPEC) == "fused"
    rows = [new_row(base, seed=seed) for seed in range(2)]
    losses = FusedEngine(base, recompute=recompute).accumulate_gradients(examples, rows)
    (of_the_full_base,) = FusedEngine(whole).accumulate_gradients(examples, [new_row(whole)])
    for row, loss in zip(rows, losses, strict=True):
        expected, gradient = plain(base, row, examples)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert loss != pytest.approx(of_the_full_base, rel=1e-4)  # ten times what is equal
        close(row.gradient, gradient)


def check_reference(base, examples, spec):
    row = new_row(base, spec)
    engine = ReferenceEngine(base)
    (loss,) = engine.accumulate_gradients(examples, [row])
    engine.close()
    expected, gradient = plain(base, row, examples)
    assert loss == pytest.approx(expected, rel=1e-5)
    close(row.gradient, gradient)


@pytest.mark.parametrize("dora", [False, True])
def test_reference_over_four_bits_is_plain(new_base, in_four_bits, new_examples, dora):
    spec = replace(SPEC, lora=replace(LORA, dora=dora))
    check_reference(in_four_bits(new_base(in_blocks=True)), new_examples(LENGTHS), spec)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dora", [False, True])
def test_reference_is_plain(new_base, new_examples, architecture, smoothing, dora):
    spec = replace(SPEC, label_smoothing=smoothing, lora=replace(LORA, dora=dora))
    check_reference(new_base(architecture), new_examples(LENGTHS, prefix=5), spec)


@pytest.mark.parametrize(
    ("engine", "architecture", "quantization"),
    [
        *(("auto", each, "none") for each in ARCHITECTURES),
        ("reference", "phi3", "none"),
        ("auto", "phi4-mini", "nf4"),
    ],
)
def test_fifty_steps_are_those_of_plain_peft(
    new_base, in_four_bits, new_examples, tmp_path, architecture, engine, quantization
):
    quantised = quantization != "none"
    base = new_base(architecture, in_blocks=quantised)
    base, examples = in_four_bits(base) if quantised else base, new_examples(LENGTHS * 2, prefix=5)
    spec = TrialSpec(
        1e-3,
        epochs=25,
        per_device_batch_size=3,
        batch_size_multiplier=2,
        warmup_ratio=0.0,
        weight_decay=0.1,
        lora=LORA,
        shuffle=False,
    )
    session = Session(base, examples, [], folder=tmp_path, engine=engine)
    session.add("a", spec)
    steps = [report for report in session.reports() if isinstance(report, StepReport)]
    trained = load_file(tmp_path / "a" / "last" / "adapter_model.safetensors")

    row = new_row(base, spec)
    row.weights.copy_(initial_weights(find_linear(base.model), row.layout, spec.seed))
    optimizer = torch.optim.AdamW([row.weights], lr=spec.learning_rate, weight_decay=0.1)
    for step in range(50):
        batch = examples[6 * (step % 2) : 6 * (step % 2) + 6]
        tokens = sum(int(example.supervised.sum()) for example in batch)
        loss, gradient = plain(base, replace(row, scale=1 / tokens), batch)
        norm = float(gradient.norm())
        row.weights.grad = gradient * min(1.0, spec.max_grad_norm / (norm + 1e-6))
        optimizer.step()
        assert steps[step].learning_rate == pytest.approx(spec.learning_rate)
        assert steps[step].loss == pytest.approx(loss / tokens, rel=1e-5)
        assert steps[step].grad_norm == pytest.approx(norm, rel=1e-4)
    assert len(steps) == 50
    for name, view in row.layout.views(row.weights).items():
        # By the norm: AdamW moves a weight whose gradient is all but zero by its rounding.
        off = torch.linalg.vector_norm(trained[name] - view)
        assert float(off) <= 1e-5 * float(torch.linalg.vector_norm(view)), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_k_fused_are_k_apart(new_base, new_examples, architecture, count):
    base, examples = new_base(architecture), new_examples(LENGTHS, prefix=5)
    ranks = [replace(SPEC, lora=LoraSpec(r=r, alpha=5, rslora=r == 2)) for r in (4, 2, 8, 1)]
    together = [
        new_row(base, spec, seed=at, scale=0.1 / (at + 1)) for at, spec in enumerate(ranks[:count])
    ]
    losses = FusedEngine(base).accumulate_gradients(examples, together)
    for row, loss in zip(together, losses, strict=True):
        expected, gradient = plain(base, row, examples)
        assert loss == pytest.approx(expected, rel=1e-5)
        close(row.gradient, gradient)


@pytest.mark.parametrize(
    "targets",
    [("qkv_proj",), ("o_proj",), ("gate_up_proj", "o_proj"), ("down_proj",), ("all-linear",)],
    ids=str,
)
def test_any_layers_can_have_adapters(new_base, new_examples, targets):
    base, examples = new_base("phi4-mini"), new_examples(LENGTHS, prefix=5)
    row = new_row(base, replace(SPEC, lora=replace(LORA, target_modules=targets)))
    FusedEngine(base).accumulate_gradients(examples, [row])
    close(row.gradient, plain(base, row, examples)[1])


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_other_losses(new_base, new_examples, loss, smoothing):
    base, examples = new_base(), new_examples(LENGTHS, prefix=5)
    spec = replace(SPEC, loss=loss, label_smoothing=smoothing)
    mine, theirs = new_row(base, spec), new_row(base, spec)
    got = FusedEngine(base).accumulate_gradients(examples, [mine])
    assert got == pytest.approx(
        ReferenceEngine(base).accumulate_gradients(examples, [theirs]), rel=1e-5
    )
    close(mine.gradient, theirs.gradient)


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0)])
def test_a_classifier(new_base, new_examples, weights):
    examples = new_examples(LENGTHS, prefix=5, labels=3)
    spec = replace(SPEC, class_weights=weights)
    base = new_base(labels=3)
    mine, theirs = new_row(base, spec), new_row(base, spec)
    engine = ReferenceEngine(new_base(labels=3))
    got = FusedEngine(base).accumulate_gradients(examples, [mine])
    assert got == pytest.approx(engine.accumulate_gradients(examples, [theirs]), rel=1e-5)
    close(mine.gradient, theirs.gradient)
    head = mine.layout.slots[-1]
    assert float(head.view(mine.gradient).abs().max()) > 0
    (mine_scores,), (theirs_scores,) = (
        FusedEngine(base).score(examples, [mine]),
        engine.score(examples, [theirs]),
    )
    assert mine_scores.nll == pytest.approx(theirs_scores.nll, rel=1e-5)
    assert list(mine_scores.correct) == list(theirs_scores.correct)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("labels", [0, 3])
def test_scores_of_an_adapter_and_of_the_bare_base(new_base, new_examples, architecture, labels):
    base, examples = (
        new_base(architecture, labels=labels),
        new_examples(LENGTHS, prefix=5, labels=labels),
    )
    row = new_row(base)
    reference = ReferenceEngine(new_base(architecture, labels=labels))
    for theirs, mine in zip(
        reference.score(examples, [row, None]),
        FusedEngine(base).score(examples, [row, None]),
        strict=True,
    ):
        assert mine.nll == pytest.approx(theirs.nll, rel=1e-5)
        assert list(mine.correct) == list(theirs.correct)
        assert list(mine.tokens) == list(theirs.tokens)


def test_dropout_averages_to_the_gradient_without(new_base, new_examples):
    base, examples = new_base(), new_examples(LENGTHS)
    calm = new_row(base)
    FusedEngine(base).accumulate_gradients(examples, [calm])
    dropped = new_row(base, replace(SPEC, lora=replace(LORA, dropout=0.1)))
    draws = 200
    engine = FusedEngine(base)
    for step in range(draws):
        engine.accumulate_gradients(examples, [replace(dropped, moment=(step, 0))])
    mean = dropped.gradient / draws
    assert functional.cosine_similarity(mean, calm.gradient, dim=0) > 0.98
    alone = new_row(base, dropped.spec)
    FusedEngine(base).accumulate_gradients(examples, [alone])
    assert not torch.allclose(alone.gradient, calm.gradient, rtol=0.01)
    beside = new_row(base, dropped.spec)
    FusedEngine(base).accumulate_gradients(examples, [new_row(base, dropped.spec, seed=3), beside])
    close(beside.gradient, alone.gradient)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_stays_near(new_base, new_examples, architecture):
    base, examples = new_base(architecture, dtype=torch.bfloat16), new_examples(LENGTHS, prefix=5)
    row = new_row(base)
    row.weights.copy_(row.weights.bfloat16())
    (loss,) = FusedEngine(base).accumulate_gradients(examples, [row])
    expected, gradient = plain(base, row, examples)
    assert loss == pytest.approx(expected, rel=0.01)
    assert float((row.gradient - gradient).norm() / gradient.norm()) < 0.03


def test_out_of_memory_turns_to_recomputing(new_base, new_examples, monkeypatch, caplog):
    base, examples = new_base(), new_examples(LENGTHS)
    engine, row, calm = FusedEngine(base), new_row(base), new_row(base)
    whole = fused.forward

    def small_memory(*arguments, recompute):
        if not recompute:
            raise torch.OutOfMemoryError
        return whole(*arguments, recompute=recompute)

    FusedEngine(base).accumulate_gradients(examples, [calm])
    monkeypatch.setattr(fused, "forward", small_memory)
    engine.accumulate_gradients(examples, [row])
    assert "out of memory" in caplog.text
    close(row.gradient, calm.gradient)

    def no_memory(*_, recompute):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(fused, "forward", no_memory)
    with pytest.raises(TrainingError, match="PHI3-T015"):
        engine.accumulate_gradients(examples, [row])


def test_the_base_is_left_as_it_was(new_base, new_examples):
    base, examples = new_base(), new_examples(LENGTHS)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    for engine in (FusedEngine(base), ReferenceEngine(base)):
        engine.accumulate_gradients(examples, [new_row(base)])
        engine.close()
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

import math
import shutil

import pytest
import torch

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.modeling.generate import generate, render_prompt
from mlflow_phi3.serving.local import load_checkpoint
from mlflow_phi3.serving.package import CHECKPOINT
from mlflow_phi3.serving.protocol import parse_request
from mlflow_phi3.serving.server import serve
from tests.unit.serving.running import expected, reply_to

HELLO = [{"role": "user", "content": "hold the light"}]


def ask(local, **more):
    return reply_to(local, {"messages": HELLO} | more)


def test_greedy_equals_the_evaluations_generate(local, base):
    (answer,) = ask(local, max_tokens=9).answers
    expected = generate(
        base.model, base.tokenizer, [[Message("user", "hold the light")]], max_new_tokens=9
    )
    assert answer.text.strip() == expected[0]
    assert (answer.tokens, answer.finish) == (9, "length")


def test_the_default_length_holds_when_none_is_asked(local):
    assert ask(local).answers[0].tokens == 12


def test_a_seed_repeats_and_another_does_not(local):
    first, again, other = (
        ask(local, temperature=1.5, n=3, seed=seed, max_tokens=10).answers for seed in (1, 1, 2)
    )
    assert first == again
    assert len(first) == 3
    assert first != other
    assert len({answer.text for answer in first}) > 1


def test_without_a_seed_no_two_samples_are_the_same(local):
    first, other = (ask(local, temperature=1.5, n=3, max_tokens=10).answers for _ in range(2))
    assert first != other


@pytest.mark.parametrize("seed", [1, None])
def test_sampling_leaves_the_global_generator_alone(local, seed):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    ask(local, temperature=1, seed=seed, max_tokens=2)
    assert torch.equal(torch.rand(1), expected)


def test_a_tiny_top_p_is_greedy(local):
    greedy = ask(local, max_tokens=8).answers[0].text
    assert ask(local, max_tokens=8, temperature=1, top_p=1e-6).answers[0].text == greedy


def test_greedy_answers_are_all_the_same(local):
    one, two = ask(local, n=2, max_tokens=5).answers
    assert one == two


def test_stops_at_a_stop_sequence(local):
    whole = ask(local, max_tokens=40).answers[0].text
    stop = whole[3:5]
    (answer,) = ask(local, max_tokens=40, stop=[stop]).answers
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish == "stop"
    assert answer.tokens < 40
    assert "hold" not in whole  # which the question holds
    assert ask(local, max_tokens=40, stop=["hold"]).answers[0].text == whole


def test_a_special_token_is_no_text_and_so_no_stop_sequence(local):
    whole = expected(local, "light 17", max_tokens=60, logprobs=True)
    assert b"<|user|>" in [item.token for item in whole.answers[0].logprobs]
    stop = ["<|user|>"]
    assert expected(local, "light 17", max_tokens=60, logprobs=True, stop=stop) == whole


def test_logprobs_are_the_models_own(local, base):
    (answer,) = ask(local, max_tokens=4, logprobs=True, top_logprobs=2).answers
    ids = render_prompt(base.tokenizer, [Message("user", "hold the light")])
    scores = base.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert len(answer.logprobs) == 4
    assert answer.logprobs[0].logprob == pytest.approx(float(scores.max()), rel=1e-4)
    assert [value for _, value in answer.logprobs[0].top] == pytest.approx(
        scores.topk(2).values.tolist(), rel=1e-4
    )
    assert all(math.isfinite(item.logprob) for item in answer.logprobs)


def test_the_end_of_an_answer_has_no_logprob(local):
    answers = (
        expected(local, f"light {n}", max_tokens=60, logprobs=True).answers[0] for n in range(99)
    )
    ended = next(answer for answer in answers if answer.finish == "stop")
    assert len(ended.logprobs) == ended.tokens - 1


def test_logprobs_are_of_the_text_before_a_stop_sequence(local):
    whole = ask(local, max_tokens=9, logprobs=True).answers[0]
    tokens = [item.token for item in whole.logprobs]
    assert tokens[2:4] == [b"on", b"\r"]
    for stop, kept in (("n\r", 3), ("\r", 3), ("on\r", 2), ("uon", 2)):
        (answer,) = ask(local, max_tokens=9, logprobs=True, stop=[stop]).answers
        assert (answer.text, answer.finish) == (whole.text.partition(stop)[0], "stop")
        assert answer.logprobs == whole.logprobs[:kept]
        assert answer.tokens > kept - (stop == "n\r")


def test_messages_past_the_context_are_refused_with_numbers(local):
    request = parse_request({"messages": [{"role": "user", "content": "x" * 300}]})
    with pytest.raises(UsageError, match=r"PHI3-U042 .* \d+ tokens .* context is 256"):
        local.prepare(request)


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(PreflightError, match="PHI3-P040"):
        load_checkpoint(tmp_path)


def test_a_logged_models_folder_is_told_where_its_checkpoint_lies(tmp_path):
    within = tmp_path / CHECKPOINT
    within.mkdir(parents=True)
    with pytest.raises(PreflightError) as told:
        load_checkpoint(tmp_path)
    assert (told.value.code, told.value.fix) == ("PHI3-P040", f"name {within}")


def _cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _without_vocabulary(folder):
    (folder / "tokenizer.json").unlink()


def _without_template(folder):
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_cut_weights, "PHI3-U013"),
        (_without_tokenizer, "PHI3-U013"),
        (_without_vocabulary, "PHI3-U013"),
        (_without_template, "PHI3-U011"),
    ],
)
def test_a_folder_that_is_not_whole_is_told_before_it_serves(folder, tmp_path, spoil, code):
    spoilt = tmp_path / "checkpoint"
    shutil.copytree(folder, spoilt)
    spoil(spoilt)
    with pytest.raises(UsageError, match=f"{code} .*{spoilt}"):
        load_checkpoint(spoilt, device="cpu")


def test_a_device_that_is_not_there_is_told_by_its_option(folder):
    with pytest.raises(UsageError, match="PHI3-U051 device: no device 'elsewhere'"):
        load_checkpoint(folder, device="elsewhere")
    with pytest.raises(UsageError, match="PHI3-U051 serve_device: no device 'elsewhere'"):
        serve(folder, ServeConfig(serve_device="elsewhere"))


@pytest.fixture(scope="module")
def half(folder, tmp_path_factory):
    """The same checkpoint, its weights rounded to bfloat16."""
    target = tmp_path_factory.mktemp("half")
    checkpoint = load_checkpoint(folder, device="cpu", dtype="bfloat16")
    checkpoint.model.save_pretrained(target)
    checkpoint.tokenizer.save_pretrained(target)
    return target


@pytest.mark.parametrize(
    ("native", "dtype", "expected"),
    [
        (True, "auto", torch.bfloat16),
        (False, "auto", torch.float32),
        (False, "bfloat16", torch.bfloat16),
        (True, "float32", torch.float32),
    ],
)
def test_bfloat16_is_computed_in_where_the_cpu_can(half, monkeypatch, native, dtype, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    model = load_checkpoint(half, device="cpu", dtype=dtype).model
    assert model.dtype == expected
    written = load_checkpoint(half, device="cpu", dtype="bfloat16").model.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.float(), written[name].float())

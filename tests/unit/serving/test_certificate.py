"""One model in every form it takes: trained, merged, pyfunc-like, over HTTP."""

import json

import pytest
import torch

from mlflow_phi3.errors import GateError
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.agreement import Parity
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.generate import generate
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.serving.certificate import (
    FIXED_PROMPTS,
    Certificate,
    ask_all,
    certify,
    certify_endpoint,
    compare_stage,
)
from mlflow_phi3.serving.local import LocalModel, load_checkpoint
from mlflow_phi3.serving.protocol import completion, parse_request
from tests.tiny_phi3 import conversation, example, write_adapter, write_checkpoint
from tests.unit.serving.running import Server

TOKENS = 12


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("forms")
    base = load_base(str(write_checkpoint(tmp / "base")), precision="float32")
    adapter = write_adapter(base, tmp / "adapter")
    merged = merge_adapter(base, adapter, tmp / "merged", dtype=torch.float32)
    return base, adapter, merged


def test_trained_merged_and_endpoint_are_one_model(forms):
    base, adapter, merged = forms
    reloaded = load_base(str(merged), precision="float32")
    with with_adapter(base, adapter) as trained:
        reference = generate(trained, base.tokenizer, FIXED_PROMPTS, max_new_tokens=TOKENS)
        logits = compare_logits(
            trained, reloaded.model, [example(base, conversation("hold", "the light"))]
        )
    checkpoint = load_checkpoint(merged, device="cpu")
    local = LocalModel(checkpoint)

    def ask_local(body):
        request = parse_request(body)
        reply = local.answer(local.prepare(request))
        return completion(request, reply.answers, prompt_tokens=reply.prompt_tokens, model="m")

    with Server(checkpoint) as server:

        def ask_server(body):
            return server.post(body, "/invocations").raise_for_status().json()

        served = ask_all(ask_server, max_tokens=TOKENS)
    again = generate(reloaded.model, base.tokenizer, FIXED_PROMPTS, max_new_tokens=TOKENS)
    certificate = certify(
        "trial-001",
        reference,
        [
            compare_stage("merged", reference, again, logits=logits, tolerance=1e-4),
            compare_stage("pyfunc", reference, ask_all(ask_local, max_tokens=TOKENS)),
            compare_stage("endpoint", reference, served),
        ],
        max_tokens=TOKENS,
    )
    certificate.check()
    assert all(stage.answers_equal for stage in certificate.stages)
    told = json.loads(json.dumps(certificate.to_json()))
    assert told["holds"] is True
    assert told["stages"][0]["logits"]["differing"] == 0
    assert len(set(told["answers"])) > 1


def test_the_untuned_base_is_found_out(forms):
    base, adapter, _ = forms
    with with_adapter(base, adapter) as trained:
        reference = generate(trained, base.tokenizer, FIXED_PROMPTS, max_new_tokens=TOKENS)
    wrong = generate(base.model, base.tokenizer, FIXED_PROMPTS, max_new_tokens=TOKENS)
    stage = compare_stage("endpoint", reference, wrong)
    certificate = certify("m/3", reference, [stage], max_tokens=TOKENS)
    with pytest.raises(GateError, match=r"PHI3-G071 m/3: the endpoint .* of 4 answers differ"):
        certificate.check()


def test_logits_too_far_apart_break_it_even_with_equal_answers():
    far = Parity(max_abs=1.0, max_rel=0.1, positions=3)
    stage = compare_stage("merged", ["a"], ["a"], logits=far, tolerance=0.01)
    assert stage.answers_equal
    assert not stage.holds


def test_a_tie_that_rounding_decides_does_not_break_it():
    near = Parity(0.01, 0.001, positions=9, differing=1, widest_flip=0.0001)
    stage = compare_stage("merged", ["a b"], ["a c"], logits=near, tolerance=0.01)
    assert stage.differing == (0,)
    assert stage.holds


def test_nothing_compared_certifies_nothing():
    assert not certify("m", [], [], max_tokens=1).holds


def replies(answers):
    """An endpoint that knows the answers to the fixed prompts by heart."""
    last = [prompt[-1].content for prompt in FIXED_PROMPTS]

    def ask(body):
        text = body["text"] if "text" in body else body["messages"][-1]["content"]
        found = answers[last.index(text)]
        if "text" in body:
            return {"predictions": [{"label": found, "score": 0.9}]}
        return {"choices": [{"message": {"role": "assistant", "content": found}}]}

    return ask


@pytest.mark.parametrize("labels", [(), ("a", "b", "c", "d")])
def test_an_endpoint_is_held_to_the_certificate_of_its_registration(labels):
    served = ["a", "b", "c", "d"]
    logits = Parity(0.1, 0.01, positions=5)
    merged = compare_stage("merged", ["a", "b", "c", "e"], served, logits=logits, tolerance=0.02)
    made = certify(
        "trial-1", ["a", "b", "c", "e"], [merged], max_tokens=3, served=served, labels=labels
    )
    stored = json.loads(json.dumps(made.to_json()))
    assert Certificate.from_json(stored) == made

    good = certify_endpoint(stored, replies(served), where="chat/blue")
    again = certify_endpoint(good.to_json(), replies(served), where="chat/blue")
    assert [stage.name for stage in again.stages] == ["merged", "endpoint"]
    again.check()
    bad = certify_endpoint(stored, replies(["a", "b", "c", "e"]), where="chat/blue")
    assert not bad.holds
    with pytest.raises(GateError, match=r"PHI3-G071 chat/blue: the endpoint .* 1 of 4"):
        bad.check()


def test_an_endpoint_without_a_text_is_told():
    made = certify("trial-1", ["a"] * 4, [compare_stage("pyfunc", ["a"], ["a"])], max_tokens=3)
    with pytest.raises(GateError, match="PHI3-G072"):
        certify_endpoint(made.to_json(), lambda _: {}, where="x")

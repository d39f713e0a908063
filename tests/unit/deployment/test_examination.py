import pytest

from mlflow_phi3.deployment.examination import Examination, examine
from mlflow_phi3.errors import GateError
from mlflow_phi3.evaluation.golden import GoldenQuery
from mlflow_phi3.serving.certificate import FIXED_PROMPTS, certify, compare_stage

WANTED = [f"about {prompt[-1].content}" for prompt in FIXED_PROMPTS]
STAGE = compare_stage("pyfunc", WANTED, WANTED)
REGISTERED = certify("chat/1", WANTED, [STAGE], max_tokens=4).to_json()
HELLO = GoldenQuery({"messages": [{"role": "user", "content": "hello"}]}, contains=("hello",))


def answering(word):
    def ask(inputs):
        content = f"{word} {inputs['messages'][-1]['content']}"
        return {"choices": [{"message": {"role": "assistant", "content": content}}]}

    return ask


def examined(examination, word):
    told = []
    examine(examination, answering(word), where="deployment chat/green", told=told.append)
    return told


def test_both_parts_hold_and_the_certificate_is_kept():
    kept = []
    told = examined(Examination((HELLO,), REGISTERED, kept.append), "about")
    assert told[0] == "golden queries: 1 answered well"
    assert told[1].startswith(f"parity: {len(FIXED_PROMPTS)} answers")
    assert [stage.name for stage in kept[0].stages] == ["pyfunc", "endpoint"]
    assert kept[0].holds


def test_another_model_is_found_out_and_the_certificate_is_kept_all_the_same():
    kept = []
    with pytest.raises(GateError, match=r"PHI3-G071 deployment chat/green"):
        examined(Examination((HELLO,), REGISTERED, kept.append), "of")
    assert not kept[0].holds


def test_a_golden_query_comes_first():
    wrong = GoldenQuery(HELLO.inputs, excludes=("hello",))
    with pytest.raises(GateError, match="PHI3-G701"):
        examined(Examination((wrong,), REGISTERED), "of")


def test_what_is_not_there_is_told():
    told = examined(Examination(), "about")
    assert told[0].startswith("no golden queries")
    assert told[1].startswith("no parity check")

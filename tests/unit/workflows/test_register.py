"""What ``register`` asks of a model before it gives it a version."""

import json
import shutil

import pytest

from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.serving.package import CHECKPOINT
from mlflow_phi3.tracking import registry
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.register import _against_champion, _ask_golden
from mlflow_phi3.workflows.screen import Screen
from tests.tiny_phi3 import write_checkpoint


@pytest.fixture(scope="module")
def challenger(tmp_path_factory):
    return load_base(str(write_checkpoint(tmp_path_factory.mktemp("tiny"))), precision="float32")


def crown(tracker, folder):
    """Make ``folder`` the champion of a registered model; its name."""
    name = folder.parent.name
    registry.ensure_registered(tracker.client, name)
    registry.crown(tracker.client, tracker.client.create_model_version(name, folder.as_uri()))
    return name


def of_other_tokens(tokenizer):
    tokenizer.add_tokens(["<other>"])


def of_another_template(tokenizer):
    tokenizer.chat_template += "{# another #}"


@pytest.mark.parametrize(
    ("change", "told"), [(of_other_tokens, "other tokens"), (of_another_template, "template")]
)
def test_a_champion_that_reads_otherwise_is_not_compared(
    challenger, tracker, tmp_path, change, told
):
    shutil.copytree(challenger.path, tmp_path / "model" / CHECKPOINT)
    tokenizer = load_base(challenger.path).tokenizer
    change(tokenizer)
    tokenizer.save_pretrained(tmp_path / "model" / CHECKPOINT)
    config = RegisterConfig(registered_model=crown(tracker, tmp_path / "model"))
    context = Context(tracker, Screen("plain"), tmp_path, None)

    gate = _against_champion(context, config, challenger, None, None, tmp_path / "scratch")

    assert (gate.passed, gate.blocks) == (False, False)
    assert told in gate.why


def test_a_champion_without_weights_here_is_not_compared(challenger, tracker, tmp_path):
    """Such as one that Foundry tuned: its source is the folder with its link."""
    (tmp_path / "azure").mkdir()
    (tmp_path / "azure" / "model.json").write_text("{}")
    config = RegisterConfig(registered_model=crown(tracker, tmp_path / "azure"))
    context = Context(tracker, Screen("plain"), tmp_path, None)

    gate = _against_champion(context, config, challenger, None, None, tmp_path / "scratch")

    assert (gate.passed, gate.blocks) == (False, False)
    assert "weights are not in the store" in gate.why


def test_a_golden_query_is_answered_as_long_as_it_asks(challenger, tmp_path):
    ask = [{"role": "user", "content": "hold the light"}]
    rows = [{"messages": ask, "max_tokens": length} for length in (9, 3, 9)]
    path = tmp_path / "golden.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    long, short, again = (found.answer for found in _ask_golden(challenger, path))

    assert long == again
    assert len(short) < len(long)
    assert long.startswith(short.rstrip("\ufffd"))

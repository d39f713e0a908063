"""The runs of a workflow: each holds what its step took of the configuration."""

import pytest

from mlflow_phi3.config.parse import parse_arguments, parse_values
from mlflow_phi3.config.words import WORDS, MainWord
from mlflow_phi3.workflows.context import Context, load_config
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.sweep import name_child


@pytest.mark.parametrize("word", ["prepare", "sweep", "evaluate", "register"])
def test_a_child_holds_what_its_step_took(tracker, tmp_path, word):
    config = parse_arguments(MainWord, ["--learning-rate=1e-4..3e-4", "--answers=8"])
    context = Context(tracker, Screen("plain"), tmp_path, None)
    with context.root("main", config) as root, context.child(word, config, root) as run:
        pass
    taken = parse_values(WORDS[word], load_config(context, run.run_id))
    assert taken == WORDS[word].model_validate(
        {name: getattr(config, name) for name in WORDS[word].model_fields if hasattr(config, name)}
    )
    assert parse_values(MainWord, load_config(context, root.run_id)) == config
    assert [child.info.run_name for child in tracker.children(root.run_id)] == [word]
    assert run.tags()["phi3.stage"] == word


def test_a_sweep_within_another_run_is_named_by_its_study(tracker, tmp_path):
    config = parse_arguments(MainWord, ["--study=nightly"])
    context = Context(tracker, Screen("plain"), tmp_path, None)
    with context.root("main", config) as root:
        for study in (config.study, ""):
            with context.child("sweep", config, root, name=name_child(study)):
                pass
    names = [child.info.run_name for child in tracker.children(root.run_id)]
    assert names == ["sweep-nightly", "sweep"]


def test_no_password_of_an_address_is_logged(tracker, tmp_path):
    config = parse_arguments(MainWord, ["--storage=postgresql://me:secret@host/db"])
    context = Context(tracker, Screen("plain"), tmp_path, None)
    with context.root("main", config) as root, context.child("sweep", config, root) as child:
        pass
    for run in (root, child):
        assert load_config(context, run.run_id)["storage"] == "postgresql://me:***@host/db"

"""What the emulator's jobs train on."""

import json

from mlflow_phi3.modeling.base import load_tokenizer
from mlflow_phi3.workflows.emulated_training import read


def test_what_only_the_demo_has_no_room_for_fails_no_job(tmp_path):
    def row(question, system="Be brief."):
        said = (("system", system), ("user", question), ("assistant", "yes"))
        return json.dumps({"messages": [{"role": r, "content": c} for r, c in said]}) + "\n"

    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    long = "Is it on? " * 2000
    train.write_text(row("Is it on?") + row(long) + row("Is it on?", system=long))
    validation.write_text(row("Is it off?"))
    order = {"train": str(train), "validation": str(validation)}

    counts = read(order, load_tokenizer("demo"), tmp_path / "prepared").manifest.counts

    assert (counts.kept, counts.rejected) == (3, 1)

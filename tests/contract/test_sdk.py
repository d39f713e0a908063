"""Microsoft's SDK, unmodified and without a line of ours, drives the emulator."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mlflow_phi3.data.sample import load_conversations
from tests.contract import published
from tests.shared import find_shared


def test_a_program_of_somebody_else_works(emulator, models, ask, tmp_path):
    data, request, out = (tmp_path / name for name in ("chats.jsonl", "request.json", "out.json"))
    rows = [json.dumps({"messages": messages}) for messages in load_conversations()[:16]]
    data.write_text("\n".join(rows), encoding="utf-8")
    frame = {"columns": ["messages"], "index": [0], "data": [[ask["messages"]]]}
    request.write_text(json.dumps({"input_data": frame}))
    program = Path(__file__).with_name("sdk_alone.py")

    done = subprocess.run(
        [sys.executable, program, models["one"], data, request, out],
        env={**os.environ, **emulator.environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(out.read_text())
    assert "one: hello" in seen.pop("answer")
    assert seen == {
        "region": "eastus2",
        "deployment": "Succeeded",
        "log": True,
        "key": True,
        "number": 400,
        "job": "alone-job",
        "kind": "CustomModelFineTuningJob",
        "refused": 400,
        "gone": 404,
    }
    check_deviations(emulator.changes())


def check_deviations(changes):
    """What it sends against the published types is what it is known for, name by name."""
    folder = find_shared("azure-contract")
    found = {fault.split(" is not ")[0] for fault in published.find_faults(changes, folder)}
    assert found == published.KNOWN_DEVIATIONS.keys()

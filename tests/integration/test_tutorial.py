"""The tutorial, as a reader would do it: every command of the page, in order, in one shell."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOURNAL = (
    'curl -s --cacert "$REQUESTS_CA_BUNDLE" "$AZURE_AUTHORITY_HOST/emulator/journal" > journal'
)
PAGES = ("tutorial.md", "tutorial.mr.md")


def commands(page):
    """The page's commands, line by line, without the installation."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("pip install")]


def test_both_languages_have_the_same_commands():
    first, second = (commands(page) for page in PAGES)
    assert first == second
    assert len(first) > 15


def test_the_pages_have_the_same_sections():
    counts = [
        len(re.findall("^## ", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE))
        for page in PAGES
    ]
    assert counts[0] == counts[1] > 10


def test_the_pages_links_lead_somewhere():
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs" / target).exists(), (page, target)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_works_from_nothing_to_nothing(tmp_path, check_published):
    home = tmp_path / "emulator"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_PHI3_EMULATOR_HOME": str(home),
    }
    lines = commands("tutorial.md")
    assert lines[-1] == "mlflow-phi3 emulator stop"
    lines.insert(-1, JOURNAL)
    script = ["set -e", *(f"echo '+++' {line!r}\n{line}" for line in lines)]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    finally:
        subprocess.run(
            ["mlflow-phi3", "emulator", "stop"],
            env=environment,
            check=False,
            capture_output=True,
        )
    assert "doctor" in done.stdout
    assert "Registered, now" in done.stdout
    assert (tmp_path / "calls.jsonl").read_text(encoding="utf-8").count("\n") == 1
    assert not (home / "emulator.json").exists()
    check_published(bodies_of(json.loads((tmp_path / "journal").read_text(encoding="utf-8"))))


def bodies_of(journal):
    """What was sent and taken; of each kind that the tutorial is about there is some."""
    changes = [
        {"m": e["method"], "path": e["path"], "api": e["api_version"], "body": e["body"]}
        for e in journal
        if e["method"] in {"PUT", "PATCH"} and e["body"] and e["status"] < 300
    ]
    kinds = {change["path"].split("/")[-2].lower() for change in changes}
    assert {"jobs", "serverlessendpoints", "deployments"} <= kinds
    return changes

"""The pages that people look at, in a real Chromium that reaches nothing but this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from mlflow import MlflowClient
from PIL import Image

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.modeling.base import DEMO, load_tokenizer
from tests.running import free_port, running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PAGES = {
    "data/report.html": ["Data report", "Cleaning, duplicates and leaks"],
    "data/preview.html": ["<|assistant|>"],
    "sweep/report.html": ["The winner", "Where good trials lie", "All trials"],
    "eval/report.html": ["perplexity"],
}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --enable-logging=stderr --virtual-time-budget=30000"
)


@pytest.fixture(scope="module")
def chromium():
    """Debian's; without it these tests fail: whoever asks for them wants a browser."""
    found = shutil.which("chromium")
    assert found, "no chromium on the PATH. Fix: apt-get install chromium"
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A whole small run: its folder, where the store and the artifacts lie."""
    folder = tmp_path_factory.mktemp("pages")
    command = Path(sys.executable).with_name("mlflow-phi3")
    words = ("main", "--n_trials", "6", "--epochs", "1", "--answers", "4")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = subprocess.run(
        [command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def look(chromium, tmp_path):
    """Open a page: its content once its scripts have run, and the picture of it."""

    def look(url, *flags):
        picture = tmp_path / "page.png"
        command = [chromium, *FLAGS.split(), f"--user-data-dir={tmp_path}/profile", *flags]
        command += ["--window-size=1200,2400", f"--screenshot={picture}", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert re.findall(r".*CONSOLE.*(?:Uncaught|ERR_|Failed to load).*", done.stderr) == []
        return done.stdout, Image.open(picture).convert("L")

    return look


def find_page(project, name):
    (found,) = project.glob(f"mlruns/**/artifacts/{name}")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_draws_itself_without_network_or_errors(project, look, name):
    content, _ = look(find_page(project, name).as_uri(), "--host-resolver-rules=MAP * ~NOTFOUND")
    for word in PAGES[name]:
        assert word.replace("<", "&lt;").replace(">", "&gt;") in content


def test_a_long_label_stays_within_its_panel(look, tmp_path):
    rows = [{"text": f"text {n * n}", "label": f"label {n % 2} " * 12} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PrepareConfig(train_data=str(path), task="text-classification")
    page = prepare(config, load_tokenizer(DEMO), folder=tmp_path).folder / "report.html"
    wide = "[...document.querySelectorAll('.panel')].filter(e => e.scrollWidth > e.clientWidth)"
    asked = f"<script>document.title = {wide}.length + ' too wide'</script></body>"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", asked), encoding="utf-8")
    content, _ = look(page.as_uri())
    assert "<title>0 too wide</title>" in content


def test_the_figures_of_a_sweep_are_drawn(project, look):
    content, _ = look(find_page(project, "sweep/report.html").as_uri())
    assert content.count("plotly-graph-div") >= 5
    assert content.count('class="main-svg"') >= 5
    assert "µ" not in re.sub(r"<script.*?</script>", "", content, flags=re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_dark_where_the_person_wants_it(project, look, name):
    url = find_page(project, name).as_uri()
    ground = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        _, picture = look(url, f"--blink-settings=preferredColorScheme={number}")
        ground[scheme] = picture.getpixel((2, 2))
        # And what is on it can be seen.
        low, high = picture.getextrema()
        assert high - low > 150, (scheme, low, high)
    assert ground["dark"] < 60
    assert ground["light"] > 200


def test_mlflow_shows_the_trials(project, look):
    store = f"sqlite:///{project}/mlflow.db"
    runs = MlflowClient(store).search_runs(["0"], "tags.`phi3.stage` = 'trial'")
    assert len(runs) == 6
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "ui", "--backend-store-uri", store]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    query = {
        "searchFilter": "tags.`phi3.stage` = 'trial'",
        "orderByKey": "metrics.`eval/loss`",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": "W10=",
        "compareRunsMode": "CHART",
    }
    with running([*command, "--port", str(port)], f"{url}/health", cwd=project, env=environment):
        content, _ = look(f"{url}/#/experiments/0/runs?{urlencode(query)}")
    shown = set(re.findall(r"trial-\d{3}", content))
    assert shown == {run.info.run_name for run in runs}

"""What the whole way says at its end."""

import pytest

from mlflow_phi3.tracking.run import Run
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.ending import how_to_look, show_look, show_step
from mlflow_phi3.workflows.register import Registered, show_next
from mlflow_phi3.workflows.screen import Screen


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("sqlite:////a/mlflow.db", "mlflow ui --backend-store-uri sqlite:////a/mlflow.db"),
        ("http://mlflow:5000", "http://mlflow:5000/#/experiments/7/runs/abc"),
        ("https://me:secret@mlflow/x/", "https://me:***@mlflow/x/#/experiments/7/runs/abc"),
        ("sqlite:////a b/m.db", "mlflow ui --backend-store-uri 'sqlite:////a b/m.db'"),
        ("postgresql://me:secret@db/m", "mlflow ui --backend-store-uri 'postgresql://me:***@db/m'"),
    ],
)
def test_how_to_look_opens_that_store_and_tells_no_password(store, told):
    assert how_to_look(store, Run(None, "abc", "7", "main", "")) == told


def test_a_step_says_where_to_look_and_what_comes_next(tracker, tmp_path, capsys):
    run = tracker.start("sweep-[a]", stage="sweep")
    context = Context(tracker, Screen("plain"), tmp_path, None)
    show_look(context, run, "sweep/report.html")
    show_step(context, "mlflow-phi3 evaluate --sweep_run 12")
    look, then = capsys.readouterr().out.splitlines()
    assert look.startswith("  Look     mlflow ui --backend-store-uri sqlite:")
    assert look.endswith("(sweep-[a]: sweep/report.html)")
    assert then == "  Next     mlflow-phi3 evaluate --sweep_run 12"


def test_names_that_people_give_are_no_markup(tracker, tmp_path, capsys):
    run = tracker.start("rates [/2] [v2]", stage="main")
    registered = Registered("phi3 [v2]", "1", "trial-001", champion=True, why="it is [better]")
    show_next(Context(tracker, Screen("plain"), tmp_path, None), registered, run)
    said = capsys.readouterr().out
    assert "trial-001 is models:/phi3 [v2]@champion: it is [better]" in said
    assert "(rates [/2] [v2])" in said
    assert "-m 'models:/phi3 [v2]@champion' -t azure-foundry" in said

import pytest

from mlflow_phi3.azure.finetuning import Point
from mlflow_phi3.azure.operation import DeadlinePassed
from mlflow_phi3.errors import AzureError
from mlflow_phi3.foundry.follower import Follower, follow
from tests.unit.foundry.project import Project, state


def news(project, name, **options):
    return list(follow(project, name, sleep=lambda _s: None, timeout_s=60, **options))


def test_following_tells_each_point_once():
    project = Project({"j": state("j", "NotStarted")})
    one, two, three = Point("loss", 3.0, 1), Point("loss", 2.0, 2), Point("eval_loss", 2.5, 2)
    project.script = [
        ("Queued", []),
        ("Running", [one]),
        ("Running", [two]),
        ("Completed", [three]),
    ]

    told = news(project, "j")

    assert [n.job.status for n in told] == ["Queued", "Running", "Running", "Completed"]
    assert [n.points for n in told] == [(), (one,), (two,), (three,)]


def test_following_outlives_a_bad_hour():
    hours = ([AzureError("PHI3-A703", "no answer")] * 15 + [("Running", [])]) * 2
    project = Project({"j": state("j", "Running")}, script=[*hours, ("Completed", [])])

    assert [n.job.status for n in news(project, "j")] == ["Running", "Running", "Completed"]


def test_following_goes_on_where_metrics_may_not_be_read():
    project = Project({"j": state("j", "Running")}, script=[("Running", []), ("Completed", [])])

    def refuse(_name):
        raise AzureError("PHI3-A701", "no", status=403)

    project.metrics = refuse
    told = news(project, "j")

    assert [n.job.status for n in told] == ["Running", "Completed"]
    assert "A701" in told[0].untold


def test_following_gives_up_what_is_refused_or_gone():
    for status in (401, 403):
        refused = AzureError("PHI3-A701", "no", status=status)
        with pytest.raises(AzureError, match="A701"):
            news(Project({"j": state("j", "Running")}, script=[refused]), "j")
    with pytest.raises(AzureError, match="A734 job j: there is no such job"):
        news(Project(), "j")
    with pytest.raises(AzureError, match="A703"):
        news(Project(script=[AzureError("PHI3-A703", "no answer")] * 99), "j")


def test_looks_become_rare_while_nothing_is_new():
    project = Project({"j": state("j", "Running")})
    follower, pauses = Follower(project, "j", timeout_s=3600), []
    for _ in range(20):
        follower.look()
        pauses.append(follower.pause_s())
    assert (pauses[0], pauses[-1]) == (0.5, 15)
    assert pauses == sorted(pauses)
    project.points.append(Point("loss", 3.0, 1))
    follower.look()
    assert follower.pause_s() == 2
    assert Follower(project, "j", timeout_s=0.2).pause_s() <= 0.2


def test_following_ends_with_the_time_given():
    project = Project({"j": state("j", "Running")})
    with pytest.raises(DeadlinePassed, match="mlflow-phi3 watch j"):
        list(follow(project, "j", timeout_s=0, sleep=lambda _s: None))

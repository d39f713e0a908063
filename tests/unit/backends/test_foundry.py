import math
from dataclasses import replace

import pytest

from mlflow_phi3.azure.finetuning import Point
from mlflow_phi3.backends.base import Job
from mlflow_phi3.backends.foundry import FoundryBackend, Limits
from mlflow_phi3.errors import AzureError
from mlflow_phi3.foundry.submission import JobTemplate
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.training.spec import TrialSpec
from tests.unit.foundry.project import Project, model, state

TEMPLATE = JobTemplate("Phi-4-mini-instruct", "1", "train@1", "validation@1", "phi3-chat")
LIMITS = Limits(2, 0.0, 2.0, train_tokens=500_000, train_rows=16, timeout_s=60)
SPEC = TrialSpec(learning_rate=1e-4, epochs=1, per_device_batch_size=8)


class Trainer(Project):
    """Every job runs for three looks, tells two steps and an evaluation, and is over."""

    def __init__(self, ends="Completed"):
        super().__init__()
        self.looks = {}
        self.ends = ends
        self.cancelled = []
        self.most_at_once = 0

    def get(self, name):
        job = self.jobs.get(name)
        if job is None:
            return None
        self.looks[name] = self.looks.get(name, 0) + 1
        if name in self.cancelled:
            status = "Canceled"
        else:
            status = "Running" if self.looks[name] < 3 else self.ends
        self.jobs[name] = replace(job, status=status)
        running = [j for j in self.jobs.values() if j.status in {"NotStarted", "Running"}]
        self.most_at_once = max(self.most_at_once, len(running))
        return self.jobs[name]

    def cancel(self, name):
        self.cancelled.append(name)

    def metrics(self, name):
        points = [Point("epoch", 0.5, 1), Point("loss", 3.0, 1), Point("epoch", 1.0, 2)]
        points += [Point("loss", 2.0, 2), Point("eval_loss", 2.5, 2)]
        return points[: 2 * self.looks[name]] if self.looks[name] < 3 else points


def jobs(count):
    rates = [1e-4 * (number + 1) for number in range(count)]
    return [Job(f"trial-{n:03d}", replace(SPEC, learning_rate=r)) for n, r in enumerate(rates)]


def ignore(*_told):
    return None


def backend(project, *, limits=LIMITS, cancel=False, told=None, known=(), sleep=ignore):
    on_job = (lambda trial, job: told.append((trial, job.status))) if told is not None else ignore
    more = {"cancel": cancel, "on_job": on_job, "known": known, "sleep": sleep}
    return FoundryBackend(project, TEMPLATE, limits, **more)


def everything(one, wanted):
    with one.train([[job] for job in wanted]) as training:
        return list(training.reports())


def test_a_trial_tells_its_steps_its_evaluation_and_its_end():
    told = []
    reports = everything(backend(Trainer(), told=told), jobs(1))

    kinds = [type(report) for report in reports]
    assert kinds == [StepReport, StepReport, EvaluationReport, EndReport]
    assert [(r.step, r.total_steps, r.loss) for r in reports[:2]] == [(1, 2, 3.0), (2, 2, 2.0)]
    assert (reports[2].epoch, reports[2].loss, reports[2].best) == (1, 2.5, True)
    assert reports[2].perplexity == pytest.approx(math.exp(2.5))
    assert (reports[3].outcome, reports[3].best_loss) == ("complete", 2.5)
    assert told == [
        ("trial-000", "NotStarted"),
        ("trial-000", "Running"),
        ("trial-000", "Completed"),
    ]


def test_no_more_jobs_at_once_than_wanted():
    project = Trainer()

    reports = everything(backend(project), jobs(5))

    assert len(project.submitted) == 5
    assert project.most_at_once == 2
    assert sum(isinstance(r, EndReport) and r.outcome == "complete" for r in reports) == 5


def test_no_job_that_would_pass_the_budget():
    project = Trainer()
    limits = replace(LIMITS, budget_usd=3.0)  # one dollar an epoch
    first, *others = jobs(3)
    wanted = [replace(first, spec=replace(first.spec, epochs=2)), *others]

    reports = everything(backend(project, limits=limits), wanted)
    ends = {r.trial: r for r in reports if isinstance(r, EndReport)}

    assert len(project.submitted) == 2
    assert [ends[job.trial].outcome for job in wanted] == ["complete", "complete", "failed"]
    assert "1.00 USD by estimate, 0.00 left of budget_usd" in ends["trial-002"].reason


def test_each_epoch_has_one_evaluation_and_the_last_has_the_latest():
    class Longer(Trainer):
        def metrics(self, name):
            told = [(0.3, 4.0), (1.0, 2.5), (1.3, 2.0), (1.9, 3.0)]
            epochs = [Point("epoch", epoch, n) for n, (epoch, _) in enumerate(told, start=1)]
            losses = [Point("eval_loss", loss, n) for n, (_, loss) in enumerate(told, start=1)]
            return [*losses, Point("loss", 3.0, 1), *epochs]

    job = jobs(1)[0]
    reports = everything(backend(Longer()), [replace(job, spec=replace(job.spec, epochs=3))])

    told = [(r.epoch, r.loss, r.best) for r in reports if isinstance(r, EvaluationReport)]
    assert told == [(1, 2.5, True), (2, 3.0, False), (3, 3.0, False)]
    assert reports[-1].best_loss == 2.5
    assert (reports[0].epoch, reports[0].total_steps) == (0.3, 6)


def test_what_was_submitted_before_is_followed_and_counts():
    project = Trainer()
    everything(backend(project), jobs(2))
    project.tuned_model = lambda _job: None
    limits = replace(LIMITS, budget_usd=1.5)

    ends = everything(backend(project, limits=limits), jobs(3))

    assert len(project.submitted) == 2
    outcomes = [r.outcome for r in ends if isinstance(r, EndReport)]
    assert sorted(outcomes) == ["complete", "complete", "failed"]


def test_a_winner_whose_model_is_gone_is_told_and_not_paid_for_again():
    project = Trainer()
    one = backend(project)
    (job,) = jobs(1)
    everything(one, [job])  # Project.tuned_model finds nothing

    with pytest.raises(AzureError, match=r"PHI3-A731 job phi3-chat-.*not there any more"):
        one.model(job.spec)
    assert len(project.submitted) == 1
    project.models[project.submitted[0]] = model(project.submitted[0])
    assert one.model(job.spec).job == project.submitted[0]


def test_the_trials_of_earlier_commands_count():
    project = Trainer()
    first, second, third = jobs(3)
    known = [first.spec, second.spec]
    limits = replace(LIMITS, budget_usd=2.5)

    ends = everything(backend(project, limits=limits, known=known), [third])

    assert project.submitted == []
    assert "0.50 left of budget_usd" in ends[-1].reason


def test_a_dropped_trial_is_cancelled():
    project = Trainer()
    with backend(project).train([[job] for job in jobs(2)]) as training:
        ends = {}
        for report in training.reports():
            if isinstance(report, StepReport) and report.trial == "trial-001":
                training.drop("trial-001")
            if isinstance(report, EndReport):
                ends[report.trial] = report.outcome

    assert ends == {"trial-000": "complete", "trial-001": "dropped"}
    assert project.cancelled == [project.submitted[1]]


@pytest.mark.parametrize(("cancel", "count"), [(True, 2), (False, 0)])
def test_leaving_early_does_what_the_person_said(cancel, count):
    project = Trainer()
    with backend(project, cancel=cancel).train([[job] for job in jobs(3)]) as training:
        next(iter(training.reports()))

    assert len(project.cancelled) == count
    assert len(project.submitted) == 2


def test_a_job_that_fails_fails_its_trial_alone():
    reports = everything(backend(Trainer(ends="Failed")), jobs(2))

    ends = [r for r in reports if isinstance(r, EndReport)]
    assert [e.outcome for e in ends] == ["failed", "failed"]
    assert "no more machines" in ends[0].reason


def test_a_reason_that_cannot_be_asked_for_ends_no_other_trial():
    class Silent(Trainer):
        def why_failed(self, name):
            raise AzureError("PHI3-A703", "no answer")

    project = Silent(ends="Failed")
    reports = everything(backend(project, cancel=True), jobs(2))

    ends = [r for r in reports if isinstance(r, EndReport)]
    assert [e.outcome for e in ends] == ["failed", "failed"]
    assert "the service did not say why" in ends[0].reason
    assert project.cancelled == []


def test_a_job_that_tells_nothing_new_is_looked_at_less_and_less_often():
    class Silent(Trainer):
        def get(self, name):
            job = super().get(name)
            done = self.looks.get(name, 0) > 40
            return job and replace(job, status="Completed" if done else "Running")

        def metrics(self, name):
            return []

    slept = []
    everything(backend(Silent(), sleep=slept.append), jobs(2))

    assert slept[0] == 0.5
    assert slept == sorted(slept)
    assert slept[-1] == 15.0


def test_what_the_service_does_not_tell_is_not_made_up():
    class Terse(Trainer):
        def metrics(self, name):
            return [Point("loss", 3.0, 1), Point("eval_loss", 2.5, 1), Point("eval_loss", 2.4, 2)]

    step, evaluation, _ = everything(backend(Terse()), jobs(1))

    unknown = (step.learning_rate, step.grad_norm, step.tokens_per_second, step.supervised_tokens)
    assert unknown == (None,) * 4
    assert (step.step, step.total_steps, step.epoch) == (1, 2, 0.5)
    assert (evaluation.token_accuracy, evaluation.supervised_tokens) == (None, None)


def test_looks_may_fail_for_a_while():
    class Flaky(Trainer):
        away = 10

        def get(self, name):
            if name in self.jobs and self.away:
                self.away -= 1
                raise AzureError("PHI3-A703", "no answer")
            return super().get(name)

    ends = [r for r in everything(backend(Flaky()), jobs(1)) if isinstance(r, EndReport)]

    assert [e.outcome for e in ends] == ["complete"]


def test_what_foundry_does_not_take_fails_the_trial_before_it_costs():
    project = Trainer()
    wrong = Job("trial-000", replace(SPEC, epochs=99))

    (end,) = everything(backend(project), [wrong])

    assert end.outcome == "failed"
    assert "PHI3-U771" in end.reason
    assert project.submitted == []


def test_a_state_without_news_ends_with_the_time_given():
    project = Trainer(ends="Running")
    project.jobs["x"] = state("x", "Running")
    limits = replace(LIMITS, timeout_s=0)

    (*_, end) = everything(backend(project, limits=limits), jobs(1))

    assert end.outcome == "failed"
    assert "goes on in Azure" in end.reason


def test_a_trial_that_waits_for_its_turn_can_be_dropped():
    project = Trainer()
    with backend(project).train([[job] for job in jobs(4)]) as training:
        training.drop("trial-003")
        ends = {r.trial: r.outcome for r in training.reports() if isinstance(r, EndReport)}

    assert ends["trial-003"] == "dropped"
    assert len(project.submitted) == 3


def test_the_job_of_an_earlier_attempt_is_cancelled_with_its_trial():
    project = Trainer()
    (job,) = jobs(1)
    backend(project).submit(job.spec)
    with backend(project).train([[replace(job, resume=True, evaluated=1)]]) as training:
        training.drop(job.trial)
        (end,) = [r for r in training.reports() if isinstance(r, EndReport)]

    assert end.outcome == "dropped"
    assert project.cancelled == project.submitted


def test_a_job_that_two_trials_wait_for_is_cancelled_for_both_alone():
    project = Trainer()
    (one,) = jobs(1)
    twins = [replace(one, trial=name) for name in ("trial-000", "trial-001")]
    with backend(project).train([[job] for job in twins]) as training:
        reports = training.reports()
        next(reports)
        training.drop("trial-000")
        assert project.cancelled == []
        ends = {r.trial: r.outcome for r in reports if isinstance(r, EndReport)}

    assert ends == {"trial-000": "complete", "trial-001": "complete"}
    assert len(project.submitted) == 1


class Refusing(Trainer):
    """The first order to cancel is refused."""

    refusals = 1

    def cancel(self, name):
        if self.refusals:
            self.refusals -= 1
            raise AzureError("PHI3-A703", "no answer", where=f"job {name}")
        super().cancel(name)


def test_an_order_to_cancel_that_is_refused_is_told_and_given_again(caplog):
    project = Refusing()
    with backend(project).train([[job] for job in jobs(1)]) as training:
        reports = training.reports()
        next(reports)
        training.drop("trial-000")
        (end,) = [r for r in reports if isinstance(r, EndReport)]

    assert "could not be cancelled" in caplog.text
    assert end.outcome == "dropped"
    assert project.cancelled == project.submitted


def test_a_job_that_cannot_be_cancelled_keeps_none_from_being_cancelled(caplog):
    project = Refusing()
    with backend(project, cancel=True).train([[job] for job in jobs(2)]) as training:
        next(iter(training.reports()))

    assert project.cancelled == project.submitted[1:]
    assert f"{project.submitted[0]} could not be cancelled" in caplog.text


def test_why_a_completed_trial_has_no_loss_is_said():
    class Unreadable(Trainer):
        def metrics(self, name):
            raise AzureError("PHI3-A710", "not allowed to read metrics", status=403)

    (end,) = [r for r in everything(backend(Unreadable()), jobs(1)) if isinstance(r, EndReport)]

    assert "not allowed to read metrics" in end.reason

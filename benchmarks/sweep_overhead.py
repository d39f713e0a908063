"""What a study of many trials costs beside their training: open, ask, tell and log.

The trials of a real study (Optuna in SQLite, TPE, MLflow in SQLite, epochs shared) are "trained" by
a backend that computes nothing, so that every second is the sweep's own; what the sampler takes of
it is told apart, and so is taking the finished study up again. Beside it stand the same calls
written plainly: one ``ask``, one MLflow run with the same parameters, metrics, tags and adapter,
one ``tell`` a trial. The last line reads
`ms_per_trial=<ours> sampler_ms=<of them> plain_ms_per_trial=<theirs> vs_plain=<theirs / ours>`.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow
import optuna
from machine import describe
from mlflow import MlflowClient

from mlflow_phi3.backends.base import Job
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.opening import begin_study
from mlflow_phi3.sweep.space import build_space, flat_params
from mlflow_phi3.tracking.tracker import open_tracker
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Outcome, Report, StepReport
from mlflow_phi3.training.spec import TrialSpec

HERE = Path(__file__).parent
STEPS_PER_EPOCH = 4
EXAMPLES = 64
SPACE = {
    "learning_rate": "1e-5..1e-2",
    "lora_r": "4..64",
    "batch_size_multiplier": "1,2,4",
    "epochs": "2",
    "pruner": "median",
}


def make_loss(spec: TrialSpec, epoch: int) -> float:
    """A bowl that sinks with every epoch."""
    distance = math.log10(spec.learning_rate / 1e-3) ** 2
    return 1.0 + distance + 0.01 * spec.batch_size_multiplier + 0.5 / epoch


class IdleBackend:
    """Trials tell at once what a training would; the adapter's two files are written.

    Args:
        folder: Where each trial's adapter lies.
    """

    slots = 1
    group_size = 4

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["IdleTraining"]:
        """Train the groups one after the other."""
        yield IdleTraining(self.folder, groups)

    def close(self) -> None:
        """Nothing to let go of."""


class IdleTraining:
    """Groups that are done as soon as they are asked."""

    def __init__(self, folder: Path, groups: Sequence[Sequence[Job]]) -> None:
        self._folder = folder
        self._groups = groups
        self._dropped: set[str] = set()

    def drop(self, trial: str) -> None:
        """Stop a trial after its epoch."""
        self._dropped.add(trial)

    def reports(self) -> Iterator[Report]:
        """Steps, an evaluation an epoch, and the end, the jobs of a group in lock-step."""
        for group in self._groups:
            live = list(group)
            for epoch in range(1, max(job.spec.epochs for job in group) + 1):
                for job in live:
                    yield from _steps(job, epoch)
                for job in live:
                    yield _evaluation(job, epoch, self._folder)
                for job in list(live):
                    if job.trial in self._dropped or job.spec.epochs == epoch:
                        live.remove(job)
                        yield _end(job, epoch, self._folder, dropped=job.trial in self._dropped)


def write_adapter(folder: Path) -> Path:
    """Two small files where PEFT would write its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(bytes(4096))
    return folder


def study_ours(folder: Path, n_trials: int) -> dict[str, float]:
    """Seconds from opening the study to its last trial, and to take it up again."""
    tracker = open_tracker(uri=f"sqlite:///{folder}/mlflow.db", experiment="overhead")
    url = f"sqlite:///{folder}/optuna.db"
    asked = {**SPACE, "n_trials": str(n_trials), "storage": url, "study": "overhead"}
    config = parse_values(SweepConfig, asked)
    space = build_space(config, model="demo", seed=0)
    parent = tracker.start("sweep", stage="sweep")

    def conduct() -> tuple[Ledger, float]:
        study = begin_study(config, space, tracker=tracker, parent=parent, facts={})
        ledger, backend = study.ledger, IdleBackend(folder / "work")
        sampling = _time_sampler(ledger)
        conductor = Conductor(study, backend, {}, lambda _: None, folder=folder / "points")
        with beating(ledger.study, ledger.driver):
            conductor.conduct()
        return ledger, sum(sampling)

    began, busy = time.perf_counter(), time.process_time()
    ledger, sampling = conduct()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    finished = sum(trial.state.is_finished() for trial in ledger.trials())
    if finished != n_trials:
        raise SystemExit(f"{finished} of {n_trials} trials are finished")
    began = time.perf_counter()
    conduct()
    again = time.perf_counter() - began
    return {
        "ms_per_trial": 1e3 * seconds / n_trials,
        "cpu_ms_per_trial": 1e3 * busy / n_trials,
        "sampler_ms_per_trial": 1e3 * sampling / n_trials,
        "reopen_seconds": again,
    }


def _time_sampler(ledger: Ledger) -> list[float]:
    """Seconds of each proposal, from now on."""
    taken: list[float] = []
    propose = ledger.proposer.propose

    def timed(known: Sequence[optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial:
        began = time.perf_counter()
        proposal = propose(known)
        taken.append(time.perf_counter() - began)
        return proposal

    ledger.proposer.propose = timed  # type: ignore[method-assign]  # to be measured
    return taken


def study_plainly(folder: Path, n_trials: int) -> dict[str, float]:
    """Seconds of the same calls as a script would make them."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient()
    experiment = client.create_experiment("overhead")
    parent = client.create_run(experiment)
    config = parse_values(SweepConfig, {**SPACE, "n_trials": str(n_trials)})
    space = build_space(config, model="demo", seed=0)
    began, busy = time.perf_counter(), time.process_time()
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(),
    )
    for _ in range(n_trials):
        trial = study.ask(space.distributions())
        spec = space.spec(trial.params)
        _run_plainly(client, experiment, parent.info.run_id, trial, spec, folder / "work")
    return {
        "ms_per_trial": 1e3 * (time.perf_counter() - began) / n_trials,
        "cpu_ms_per_trial": 1e3 * (time.process_time() - busy) / n_trials,
    }


def _run_plainly(
    client: MlflowClient,
    experiment: str,
    parent: str,
    trial: optuna.Trial,
    spec: TrialSpec,
    folder: Path,
) -> None:
    job = Job(f"trial-{trial.number:03d}", spec)
    tags = {"mlflow.parentRunId": parent, "phi3.trial_number": str(trial.number)}
    run_id = client.create_run(experiment, tags=tags, run_name=job.trial).info.run_id
    for name, value in flat_params(spec).items():
        client.log_param(run_id, name, value)
    loss, pruned = math.inf, False
    for epoch in range(1, spec.epochs + 1):
        for step in _steps(job, epoch):
            client.log_metric(run_id, "train/loss", step.loss, step=step.step)
            client.log_metric(run_id, "train/learning_rate", step.learning_rate, step=step.step)
            client.log_metric(run_id, "train/grad_norm", step.grad_norm, step=step.step)
        found = _evaluation(job, epoch, folder)
        client.log_metric(run_id, "eval/loss", found.loss, step=found.step)
        client.log_metric(run_id, "eval/perplexity", found.perplexity, step=found.step)
        client.log_text(run_id, json.dumps(list(found.example_losses)), "eval/per_example.json")
        loss = min(loss, found.loss)
        trial.report(found.loss, epoch)
        pruned = epoch < spec.epochs and trial.should_prune()
        if pruned:
            break
    client.log_artifacts(run_id, str(folder / job.trial / "best"), "checkpoints/best")
    client.set_terminated(run_id, "KILLED" if pruned else "FINISHED")
    if pruned:
        trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        trial.study.tell(trial, loss)


def _steps(job: Job, epoch: int) -> Iterator[StepReport]:
    total = job.spec.epochs * STEPS_PER_EPOCH
    loss = make_loss(job.spec, epoch) + 0.1
    for step in range((epoch - 1) * STEPS_PER_EPOCH + 1, epoch * STEPS_PER_EPOCH + 1):
        done, last = step / STEPS_PER_EPOCH, step % STEPS_PER_EPOCH == 0
        yield StepReport(job.trial, step, total, done, loss, 1e-3, 1.0, 900, 300, 9000.0, 1, last)


def _evaluation(job: Job, epoch: int, folder: Path) -> EvaluationReport:
    loss = make_loss(job.spec, epoch)
    write_adapter(folder / job.trial / "best")
    step = epoch * STEPS_PER_EPOCH
    losses = (loss,) * EXAMPLES
    return EvaluationReport(
        job.trial,
        step,
        epoch,
        epoch,
        loss,
        math.exp(loss),
        0.5,
        30,
        best=True,
        example_losses=losses,
    )


def _end(job: Job, epoch: int, folder: Path, *, dropped: bool) -> EndReport:
    loss = make_loss(job.spec, epoch)
    adapter = folder / job.trial / "best"
    outcome: Outcome = "dropped" if dropped else "complete"
    return EndReport(job.trial, outcome, "", epoch * STEPS_PER_EPOCH, loss, adapter, 1.0)


def measure(study: Callable[[Path, int], dict[str, float]], n_trials: int) -> dict[str, float]:
    """What a study takes in a fresh store."""
    with tempfile.TemporaryDirectory() as name:
        # MLflow makes its tables at the first connection; that is not a study's cost.
        open_tracker(uri=f"sqlite:///{name}/mlflow.db", experiment="warm")
        return study(Path(name), n_trials)


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--plain-trials", type=int, default=200, help="of the plain script")
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = describe("optuna", "mlflow", "sqlalchemy")
    ours = measure(study_ours, asked.trials)
    print(f"ours  {ours['ms_per_trial']:8.1f} ms a trial of {asked.trials}", flush=True)
    print(f"taken up again in {ours['reopen_seconds']:.2f} s", flush=True)
    plain = measure(study_plainly, asked.plain_trials)
    print(f"plain {plain['ms_per_trial']:8.1f} ms a trial of {asked.plain_trials}", flush=True)
    ratio = plain["ms_per_trial"] / ours["ms_per_trial"]
    if asked.write:
        found = {**about, "settings": vars(asked), "ours": ours, "plain": plain}
        text = json.dumps(found, indent=1) + "\n"
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "sweep_overhead.json").write_text(text, encoding="utf-8")
    print(
        f"ms_per_trial={ours['ms_per_trial']:.1f} "
        f"sampler_ms={ours['sampler_ms_per_trial']:.1f} "
        f"plain_ms_per_trial={plain['ms_per_trial']:.1f} vs_plain={ratio:.2f}"
    )


if __name__ == "__main__":
    main()

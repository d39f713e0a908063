"""A group of trials on another machine: pulled stretch by stretch, its checkpoints handed over."""

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.local import LocalBackend, LocalTraining
from mlflow_phi3.training.checkpoint import finish_replacing, leave_untold, replace_folder
from mlflow_phi3.training.reports import EndReport, Report, StepReport

# A stretch ends with an evaluation, or after this long, so that progress is seen.
_STRETCH_S = 1.0
Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a worker tells at once.

    Args:
        reports: In order.
        files: By trial, its folder as it was after the last of them, where it was evaluated.
    """

    reports: tuple[Report, ...]
    files: Mapping[str, Files]


class Worker:
    """What runs on the other machine: a local backend in a folder of its own.

    Args:
        work: What the trials have in common.
    """

    def __init__(self, work: Workload) -> None:
        gc.freeze()  # what is imported by now is nobody's garbage: see import_large
        self._folder = Path(tempfile.mkdtemp(prefix="mlflow-phi3-"))
        self._backend = LocalBackend(work, folder=self._folder)
        self._training = LocalTraining(self._backend, [])
        self._reports: Iterator[Report] = iter(())
        self._jobs: set[str] = set()  # those of its group that go on
        self._told: Sequence[Report] = ()  # the last stretch, which may not have been heard

    def size(self) -> int:
        """Trainings that go on together here; answers once the base is loaded."""
        return self._backend.group_size

    def begin(self, jobs: Sequence[Job], files: Mapping[str, Files]) -> Stretch:
        """Take up a group, with the checkpoints that the driver keeps of it."""
        self._training.close()
        for trial, content in files.items():
            write_folder(self._folder / trial, content)
        self._jobs = {job.trial for job in jobs}
        self._training = LocalTraining(self._backend, [jobs])
        self._reports = self._training.reports()
        return self.go_on(())

    def go_on(self, dropped: Sequence[str]) -> Stretch:
        """Train until an evaluation or until a second is over; ``dropped`` trials leave first."""
        for trial in dropped:
            self._training.drop(trial)
        told: list[Report] = []
        began = time.monotonic()
        for report in self._reports:
            told.append(report)
            if not isinstance(report, StepReport) or time.monotonic() - began > _STRETCH_S:
                return self._stretch(told)
        return self._stretch(told)

    def stop(self) -> Mapping[str, Files]:
        """Leave each trial at its latest step; the folders of those that have not ended."""
        self._training.close()
        for trial in self._jobs:
            steps = [r for r in self._told if isinstance(r, StepReport) and r.trial == trial]
            leave_untold(self._folder / trial / "last", steps)
        files = {trial: read_folder(self._folder / trial) for trial in self._jobs}
        self._clear()
        return files

    def _stretch(self, told: Sequence[Report]) -> Stretch:
        self._told = told
        ended = {r.trial for r in told if not isinstance(r, StepReport)}
        files = {trial: read_folder(self._folder / trial) for trial in ended}
        self._jobs -= {report.trial for report in told if isinstance(report, EndReport)}
        if not self._jobs:
            self._clear()
        return Stretch(tuple(told), files)

    def _clear(self) -> None:
        """Keep nothing that the driver has: nobody tells a worker that it is let go."""
        shutil.rmtree(self._folder, ignore_errors=True)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their paths in it; none where there is no folder."""
    finish_replacing(folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_folder(folder: Path, files: Files) -> None:
    """Make ``folder`` hold ``files`` and nothing else, or leave it as it was."""
    beside = folder.with_name(f".{folder.name}.new")
    with suppress(FileNotFoundError):  # what cannot be removed would be among the files
        shutil.rmtree(beside)
    for name, content in files.items():
        path = beside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if files:
        replace_folder(beside, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)

"""A project of Foundry as plain values, for tests that need no emulator."""

from dataclasses import dataclass, field, replace

from mlflow_phi3.azure.finetuning import JobState, TunedModel
from mlflow_phi3.errors import AzureError


@dataclass
class Project:
    """Jobs of a project, as plain values; each look at one may change it."""

    jobs: dict = field(default_factory=dict)
    points: list = field(default_factory=list)
    models: dict = field(default_factory=dict)
    script: list = field(default_factory=list)
    submitted: list = field(default_factory=list)

    def get(self, name):
        if self.script:
            step = self.script.pop(0)
            if isinstance(step, BaseException):
                raise step
            status, points = step
            self.jobs[name] = replace(self.jobs[name], status=status)
            self.points += points
        return self.jobs.get(name)

    def list_jobs(self):
        return list(self.jobs.values())

    def submit(self, wanted):
        self.submitted.append(wanted.name)
        self.jobs[wanted.name] = state(wanted.name, "NotStarted")
        return self.jobs[wanted.name]

    def metrics(self, _name):
        return list(self.points)

    def why_failed(self, _name):
        return "no more machines."

    def tuned_model(self, job):
        if job.name not in self.models:
            raise AzureError("PHI3-A731", "gone")
        return self.models[job.name]


def state(name, status):
    return JobState(name, status, "phi3-chat", "base", {}, {}, "", "")


def model(job):
    return TunedModel("phi3-chat", "1", "azureml://...", job)

"""A trial that the tests of the loop train, and how to look at what came of it."""

from collections import defaultdict

import torch
from safetensors.torch import load_file

from mlflow_phi3.training.reports import StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

LENGTHS = (10, 12, 20, 15, 9, 18, 22, 11, 13, 14)
SPEC = TrialSpec(1e-2, epochs=2, per_device_batch_size=2, warmup_ratio=0.2, lora=LoraSpec(r=4))


def collect(session):
    told = defaultdict(list)
    for report in session.reports():
        told[report.trial].append(report)
    return dict(told)


def losses(reports, kind=StepReport):
    return [report.loss for report in reports if isinstance(report, kind)]


def is_step(report):
    return isinstance(report, StepReport)


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def stop_at(session, count):
    """The first ``count`` reports; then the session is stopped."""
    reports = session.reports()
    told = [next(reports) for _ in range(count)]
    reports.close()
    return told

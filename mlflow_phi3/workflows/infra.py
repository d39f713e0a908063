"""``infra``: hub and project of a target, created where they are missing."""

from collections.abc import Callable

from mlflow_phi3.azure.infra import Builder
from mlflow_phi3.azure.infra_plan import Step, find_location, plan_infra
from mlflow_phi3.azure.infra_wanted import WantedInfra, check_wanted
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.foundry.project import Place


def build_project(
    place: Place,
    wanted: WantedInfra,
    *,
    timeout_s: float,
    dry_run: bool,
    tell: Callable[[str], None],
) -> tuple[Step, ...]:
    """Create what is missing of a project; return the steps that it took, or would take.

    What is there is left as it is, and what is still being made is waited for.

    Args:
        place: The project; it need not be there.
        wanted: What shall be there.
        timeout_s: How long to wait in all, seconds.
        dry_run: Whether only to look, as things stand.
        tell: Gets a line for people before each step, and before each wait.

    Raises:
        UsageError: What is wanted cannot be meant, or no region is told.
        PreflightError: Something of that name is something else, or elsewhere.
        AzureError: Refused, or it failed; run again, it goes on where it stopped.
        DeadlinePassed: Time is over.
    """
    check_wanted(wanted)
    builder = Builder(place.open_account(), Deadline(timeout_s))
    wanted = builder.choose_hub(wanted)
    current = builder.look(wanted)
    if dry_run:
        return plan_infra(current, wanted)
    current = builder.await_idle(current, wanted, tell)
    steps = plan_infra(current, wanted)
    builder.build(steps, wanted, find_location(current, wanted), tell)
    return steps

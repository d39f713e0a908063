"""Commands that are imported when they are called: torch, MLflow and Azure's SDK take seconds."""

from dataclasses import dataclass

import typer
from typer.main import get_command

from mlflow_phi3.imports import import_large

# What follows the command is parsed by our own schemas, as `mlflow run` hands it over, so that both
# ways in accept the same words and refuse with the same messages.
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
HELP_OPTIONS = frozenset({"--help", "-h"})


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """One command.

    Args:
        name: As it is typed.
        module: Under ``mlflow_phi3.cli``, with an ``app``.
        summary: For the list of commands.
    """

    name: str
    module: str
    summary: str

    def app(self) -> typer.Typer:
        """Import the module; its application."""
        found: typer.Typer = import_large(f"mlflow_phi3.cli.{self.module}").app
        return found

    def call(self, given: list[str]) -> int:
        """Run the command with what was typed behind it; its exit code."""
        # Without the options by which a program of its own would install its completion; and with
        # the paragraphs of docstrings filled, which only markdown does.
        found = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        found.registered_commands = self.app().registered_commands
        several = len(found.registered_commands) > 1
        program = "mlflow-phi3" if several else f"mlflow-phi3 {self.name}"
        arguments = [self.name, *given] if several else given
        command = get_command(found)
        command.context_settings.setdefault("help_option_names", sorted(HELP_OPTIONS))
        code = command.main(arguments, prog_name=program, standalone_mode=False)
        return int(code or 0)


COMMANDS = (
    LazyCommand(
        "models", "models", "List the Phi models: where each is tuned, its price, its retirement."
    ),
    LazyCommand("doctor", "doctor", "Check what a project needs before anything is spent."),
    LazyCommand("infra", "infra", "Create the hub and the project where they are missing."),
    LazyCommand("plan", "plan", "Estimate tokens, steps, memory, disk, hours and money first."),
    LazyCommand("try", "try_", "Ask a deployed endpoint; show how your application asks it."),
    LazyCommand(
        "monitor", "monitor", "Log traffic, latency, cost and drift of an endpoint as a run."
    ),
    LazyCommand("watch", "watch", "Follow a fine-tuning job to its end."),
    LazyCommand("list", "jobs", "List the fine-tuning jobs and the models that they made."),
    LazyCommand("show", "jobs", "Show all that is known of a job or a tuned model."),
    LazyCommand("delete", "jobs", "Delete a job, or a tuned model that nothing serves."),
    LazyCommand("cancel", "jobs", "Stop a job."),
    LazyCommand(
        "promote", "deployment", "Give a deployment all traffic; its model becomes champion."
    ),
    LazyCommand("rollback", "deployment", "Undo the last move of traffic, and of the champion."),
    LazyCommand("reap", "deployment", "Delete the endpoints whose ttl_hours are over."),
)
# Stands behind the word that it repairs: `mlflow-phi3 sweep repair STUDY`.
REPAIR = LazyCommand("sweep repair", "repair", "Close what a dead machine left of a study.")


def add_commands(app: typer.Typer) -> None:
    """Let ``app`` have them all."""
    for one in COMMANDS:
        _add(app, one)


def _add(app: typer.Typer, one: LazyCommand) -> None:
    @app.command(one.name, help=one.summary, context_settings=PASS_THROUGH)
    def command(context: typer.Context) -> None:
        raise typer.Exit(one.call(context.args))

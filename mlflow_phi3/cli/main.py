"""``mlflow-phi3``: every feature word as a command, and what Azure needs around them."""

import sys

import typer
from rich.console import Console
from rich.table import Table

from mlflow_phi3 import __version__
from mlflow_phi3.cli import emulator
from mlflow_phi3.cli.elsewhere import REPAIR, add_commands
from mlflow_phi3.cli.reference import Parameter, parameters
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.errors import Phi3Error
from mlflow_phi3.workflows.entry import run

app = typer.Typer(
    name="mlflow-phi3",
    help="Fine-tune Microsoft's Phi models with MLflow and Optuna; ship them to Azure AI Foundry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Parameters are parsed by our own schemas, as `mlflow run` hands them over, so that both ways in
# accept the same words and refuse with the same messages.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _add_word(word: str) -> None:
    summary = (WORDS[word].__doc__ or "").split(": ", 1)[-1]
    summary = summary[:1].upper() + summary[1:]

    @app.command(word, help=summary, context_settings=_PASS_THROUGH)
    def command(context: typer.Context) -> None:
        if "--help" in context.args and context.args[0] != "repair":
            _show_parameters(word, summary)
            return
        if (word, *context.args[:1]) == ("sweep", "repair"):
            raise typer.Exit(REPAIR.call(context.args[1:]))
        raise typer.Exit(run(word, context.args))


def _show_parameters(word: str, summary: str) -> None:
    console = Console()
    console.print(f"[bold]mlflow-phi3 {word}[/] --name value ...\n{summary}")
    table = Table("parameter", "default", "meaning", show_lines=True)
    for parameter in parameters(WORDS[word]):
        table.add_row(*_row(parameter))
    console.print(table)


def _row(parameter: Parameter) -> tuple[str, str, str]:
    return parameter.name, parameter.default, parameter.meaning


for _word in WORDS:
    _add_word(_word)
add_commands(app)
app.add_typer(emulator.app)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; our errors become one line and their exit code."""
    try:
        app()
    except Phi3Error as error:
        print(error, file=sys.stderr)  # noqa: T201 - the last word belongs on the terminal
        sys.exit(error.exit_code)

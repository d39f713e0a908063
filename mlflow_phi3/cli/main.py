"""``mlflow-phi3``: every feature word as a command, and what Azure needs around them."""

import sys

import typer

from mlflow_phi3 import __version__
from mlflow_phi3.cli import emulator
from mlflow_phi3.cli.lazy import HELP_OPTIONS, PASS_THROUGH, REPAIR, add_commands
from mlflow_phi3.cli.parameter_help import show_help
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.errors import Phi3Error
from mlflow_phi3.workflows.entry import run, tell

app = typer.Typer(
    name="mlflow-phi3",
    help="Fine-tune Microsoft's Phi models with MLflow and Optuna; ship them to Azure AI Foundry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": sorted(HELP_OPTIONS)},
)


def _add_word(word: str) -> None:
    summary = (WORDS[word].__doc__ or "").split(": ", 1)[-1]
    summary = summary[:1].upper() + summary[1:]
    repair = f"{REPAIR.summary.rstrip('.')}: mlflow-phi3 {REPAIR.name} STUDY"
    also = (repair,) if word == "sweep" else ()

    @app.command(word, help=summary, context_settings=PASS_THROUGH)
    def command(context: typer.Context) -> None:
        if (word, *context.args[:1]) == ("sweep", "repair"):
            raise typer.Exit(REPAIR.call(context.args[1:]))
        if HELP_OPTIONS & set(context.args):
            show_help(word, summary, WORDS[word], *also)
            return
        raise typer.Exit(run(word, context.args))


for _word in WORDS:
    _add_word(_word)
add_commands(app)
app.add_typer(emulator.app)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_tell_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Fine-tune Microsoft's Phi models with MLflow and Optuna; ship them to Azure AI Foundry."""
    del version  # told before anything else is looked at


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; our errors become one line and their exit code."""
    try:
        app()
    except Phi3Error as error:
        tell(error, sys.argv[1:])
        sys.exit(error.exit_code)

"""``--help`` of the commands that take parameters: sorted by what they are about."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.comparison import ComparisonConfig
from mlflow_phi3.config.context import ContextConfig
from mlflow_phi3.config.describe import Parameter, parameters, wrapped
from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.model import ModelConfig
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.words import WORDS

_WIDEST = 100
_OWN = "This command"
_SECTIONS: dict[str, type[Config]] = {
    "Data": PrepareConfig,
    "Model": ModelConfig,
    "Training": Hyperparameters,
    "Search": SweepConfig,
    "Azure AI Foundry": FoundryConfig,
    "Evaluation": EvaluateConfig,
    "Comparison": ComparisonConfig,
    "Registration": RegisterConfig,
    "Run": ContextConfig,
}


def show_help(name: str, summary: str, schema: type[Config], *also: str) -> None:
    """Print how the command is called, and every parameter with its default and meaning.

    Args:
        name: The command.
        summary: What it does.
        schema: Its parameters.
        also: Other ways to call it, a line each.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    width = min(console.width, _WIDEST)
    console.print(Text.assemble(("mlflow-phi3 ", "bold"), (name, "bold"), " --name value ..."))
    console.print(summary)
    if name in WORDS:
        console.print(f"In a project: mlflow run . -e {name} -P name=value")
    for line in also:
        console.print(line)
    for title, several in _sections(schema):
        console.print(Text(f"\n{title}", style="bold"))
        for parameter in several:
            default = f"  [{parameter.default}]" if parameter.default else ""
            console.print(Text.assemble(f"  --{parameter.name}", (default, "dim")))
            console.print(wrapped(parameter.meaning, width))


def _sections(schema: type[Config]) -> Iterator[tuple[str, list[Parameter]]]:
    """Titles and their parameters: first what this command alone knows."""
    known = {parameter.name: parameter for parameter in parameters(schema)}
    general = {
        name: title
        for title, one in _SECTIONS.items()
        if issubclass(schema, one)
        for name in one.__annotations__
    }
    for title in (_OWN, *_SECTIONS):
        several = [one for name, one in known.items() if general.get(name, _OWN) == title]
        if several:
            yield title, several

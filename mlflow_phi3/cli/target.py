"""Options that all commands about a project share."""

import typer

TARGET = typer.Option(
    "azure-foundry", "--target", "-t", help="Which project, as in `mlflow deployments -t`."
)
AS_JSON = typer.Option(False, "--json", help="Print JSON.")

"""Options that all commands about a project share."""

import typer

TARGET = typer.Option("azure-foundry", "--target", "-t", help="As of `mlflow deployments`.")
AS_JSON = typer.Option(False, "--json", help="For machines.")

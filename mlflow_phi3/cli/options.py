"""Options that all commands about a project share."""

import typer

TARGET = typer.Option(
    "azure-foundry",
    "--target",
    "-t",
    help="The project: `azure-foundry` is the one that the environment or config.json names, "
    "`azure-foundry:/local` the emulator; mlflow deployments help -t azure-foundry lists all.",
)
AS_JSON = typer.Option(False, "--json", help="Print JSON, for programs.")

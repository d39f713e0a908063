"""`mlflow run . -e prepare`: see mlflow_phi3/workflows/prepare.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("prepare", sys.argv[1:]))

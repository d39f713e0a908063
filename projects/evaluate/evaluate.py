"""`mlflow run . -e evaluate`: see mlflow_phi3/workflows/evaluate.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("evaluate", sys.argv[1:]))

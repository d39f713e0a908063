"""`mlflow run . -e main`: see mlflow_phi3/workflows/main.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("main", sys.argv[1:]))

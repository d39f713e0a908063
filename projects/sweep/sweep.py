"""`mlflow run . -e sweep`: see mlflow_phi3/workflows/sweep.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("sweep", sys.argv[1:]))

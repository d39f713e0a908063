"""`mlflow run . -e train`: see mlflow_phi3/workflows/train.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:]))

"""`mlflow run . -e register`: see mlflow_phi3/workflows/register.py."""

import sys

from mlflow_phi3.workflows.entry import run

if __name__ == "__main__":
    sys.exit(run("register", sys.argv[1:]))

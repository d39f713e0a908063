"""``python -m mlflow_phi3.emulator``: the emulator's process, until it is told to stop."""

import os
import sys

from mlflow_phi3.emulator.host import serve
from mlflow_phi3.emulator.settings import settings_from
from mlflow_phi3.errors import Phi3Error


def main() -> int:
    """Serve; return the exit code."""
    try:
        serve(settings_from(os.environ))
    except Phi3Error as failed:
        print(failed, file=sys.stderr)  # noqa: T201 - this process's log
        return failed.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

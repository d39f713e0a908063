"""``python -m mlflow_phi3.serving FOLDER [--port 8000] [--host ...]``: serve a checkpoint."""

import sys
from pathlib import Path

from mlflow_phi3.config.describe import listed
from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import Phi3Error, UsageError

_USAGE = "python -m mlflow_phi3.serving FOLDER [--name value ...]"


def main(arguments: list[str]) -> int:
    """Serve until a signal comes; the exit status."""
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(f"{_USAGE}\n\n{listed(ServeConfig, width=100)}")
        return 0
    try:
        if not arguments or arguments[0].startswith("-"):
            raise UsageError(
                "PHI3-U043", "no checkpoint folder", fix=f"{_USAGE}; --help lists them"
            )
        config = parse_arguments(ServeConfig, arguments[1:])
        from mlflow_phi3.serving.server import serve  # with torch; help and mistakes need none

        serve(Path(arguments[0]), config, told=lambda url: _tell(f"answers at {url}"))
    except Phi3Error as error:
        _tell(str(error))
        return error.exit_code
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

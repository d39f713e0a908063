"""A stand-in for the ``conda`` command, backed by uv: enough of it for ``mlflow run``.

It understands ``--help``, ``env list --json`` and ``env create -n NAME --file conda.yaml``. What it
installs is what the file asks for, so a mistake in the file fails here as it would with conda.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ENVS = Path(__file__).resolve().parents[1] / "envs"


def create(name: str, file: Path) -> None:
    wanted = yaml.safe_load(file.read_text())["dependencies"]
    (python,) = [d.removeprefix("python=") for d in wanted if str(d).startswith("python=")]
    (pip,) = [d["pip"] for d in wanted if isinstance(d, dict)]
    requirements = file.parent / f"{name}.txt"
    requirements.write_text("\n".join(pip))
    uv, target = ["uv", "--quiet"], str(ENVS / name)
    env = os.environ | {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    subprocess.run([*uv, "venv", "--python", python, target], check=True, env=env)
    install = [*uv, "pip", "install", "--python", target, "-r", str(requirements)]
    try:
        subprocess.run(install, check=True, env=env, cwd=file.parent)
    finally:
        requirements.unlink()


def main(words: list[str]) -> None:
    if words[:2] == ["env", "list"]:
        print(json.dumps({"envs": [str(env) for env in ENVS.glob("*")]}))
    elif words[:2] == ["env", "create"]:
        create(words[words.index("-n") + 1], Path(words[words.index("--file") + 1]))
    elif words != ["--help"]:
        sys.exit(f"the stand-in for conda does not know {words}")


if __name__ == "__main__":
    main(sys.argv[1:])

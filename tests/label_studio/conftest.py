"""One server for the tests of this folder, and the people who use it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.label_studio.people import Person, signed_up
from tests.label_studio.server import NotInstalledError, Running, running
from training.data.annotation.__main__ import main
from training.data.annotation.server import TOKEN

Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Running]:
    try:
        import label_studio_sdk  # noqa: F401, what the commands need as well

        with running(tmp_path_factory.mktemp("label_studio")) as found:
            yield found
    except (ImportError, NotInstalledError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error}; bash run_tests.sh installs what can be")


@pytest.fixture(scope="session")
def ann(server) -> Person:
    return signed_up(server, "ann@example.org")


@pytest.fixture(scope="session")
def ben(server) -> Person:
    return signed_up(server, "ben@example.org")


@pytest.fixture
def command(server, monkeypatch, capsys) -> Command:
    """Runs the program in this process; what it printed."""

    def run(*words: str | Path, token: str = server.token) -> list[str]:
        monkeypatch.setenv(TOKEN, token)
        monkeypatch.setattr(sys, "argv", ["annotation", *map(str, words)])
        main()
        shown = capsys.readouterr()
        assert token not in shown.out + shown.err
        return str(shown.out).splitlines()

    return run

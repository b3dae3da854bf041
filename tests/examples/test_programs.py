"""A row of programs: each tells its status, and what ends the row ends the one that runs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from examples.common.programs import run
from tests.stages.processes import ROOT

ROW = "import sys; from examples.common.programs import run; sys.exit(run(sys.argv[1:]))"


@pytest.mark.parametrize(("ends", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_status_is_a_shells(ends, status):
    assert run(["bash", "-c", ends]) == status


def test_what_was_handled_before_is_handled_again_after():
    before = signal.getsignal(signal.SIGTERM)
    run(["true"])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_that_runs(tmp_path, number):
    file = tmp_path / "pid"
    sleeper = ["bash", "-c", f"echo $$ > {file}; exec sleep 600"]
    row = subprocess.Popen(
        [sys.executable, "-c", ROW, *sleeper], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while not (file.exists() and file.read_text().strip()):
        time.sleep(0.05)
        assert row.poll() is None
    row.send_signal(number)
    assert row.wait(30) == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)

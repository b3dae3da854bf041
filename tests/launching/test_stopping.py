"""Effects of signals on a process, by its phase."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that listens, says `ready`, and then does what the test says."""
    running: list[subprocess.Popen[str]] = []

    def begin(does: str) -> "subprocess.Popen[str]":
        script = textwrap.dedent(
            """
            import time
            from training.launching import stopping
            stopping.listen()
            """
        ) + textwrap.dedent(does)
        process = subprocess.Popen(
            [sys.executable, "-uc", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


ENDLESS = """
    print("ready")
    while not stopping.should_stop():
        time.sleep(0.01)
    print(stopping.name_signal())
    time.sleep(60)
"""
TRAINING = f"""
with stopping.enter_training():
{textwrap.indent(textwrap.dedent(ENDLESS), "    ")}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_while_loading_ends_the_process_with_75(start, number):
    process = start("print('ready')\ntime.sleep(60)")
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert said == f"stopped by {number.name} before the first step: nothing is lost\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_while_training_a_signal_asks_and_a_second_one_ends_the_process(start, number):
    process = start(TRAINING)
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name}\n"
    process.send_signal(signal.SIGTERM)  # a launcher's echo
    time.sleep(5.2)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number


def test_while_closing_the_process_is_left_to_finish(start):
    process = start(
        """
        with stopping.enter_training():
            pass
        print("ready")
        time.sleep(1)
        """
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_signal_is_handled_while_the_main_thread_is_blocked_outside_python(start):
    process = start(
        """
        import threading
        lock = threading.Lock()
        lock.acquire()
        with stopping.enter_training():
            print("ready")
            lock.acquire()  # for ever, as in a collective whose peer is gone
        """
    )
    process.send_signal(signal.SIGTERM)
    time.sleep(5.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_a_forked_child_and_does_not_reach_its_parent(start, number):
    process = start(
        """
        import os
        with stopping.enter_training():
            if not (child := os.fork()):
                time.sleep(60)
                os._exit(1)
            print("ready")
            print(child)
            _, status = os.waitpid(child, 0)
            time.sleep(0.5)  # for the thread that attends to our own signals
            print(os.waitstatus_to_exitcode(status), stopping.is_asked())
            time.sleep(60)
        """
    )
    os.kill(int(process.stdout.readline()), number)
    assert process.stdout.readline() == f"-{int(number)} False\n"
    assert process.poll() is None


def test_a_forked_child_that_listens_and_forks_leaves_no_signal_blocked(start):
    process = start(
        """
        import os, signal
        if not os.fork():
            stopping.listen()
            if not os.fork():
                os._exit(1)
            os.wait()
            held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            os._exit(len(held))
        _, status = os.wait()
        print("ready")
        print(os.waitstatus_to_exitcode(status), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        """
    )
    assert process.stdout.readline() == "0 set()\n"


def test_a_forked_child_ignores_what_nohup_ignores():
    done = subprocess.run(
        ["nohup", sys.executable, "-uc", SHUT_OUT.replace("listen()", "listen(); os.fork()")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("still here") == 2  # unbuffered, two writes may meet in a line


def test_what_nohup_ignores_stays_ignored(start):
    process = start(
        """
        import signal
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        print("ready")
        """
    )
    process.communicate(timeout=20)
    command = ["nohup", sys.executable, "-uc", SHUT_OUT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "still here\n"


SHUT_OUT = textwrap.dedent(
    """
    import os, signal, time
    from training.launching import stopping
    stopping.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.5)
    print("still here")
    """
)

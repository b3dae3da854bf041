"""Exit status and clean-up of `training.launching.launch`.

Small programs replace `deepspeed`, or the stage's program if there is one rank.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from training.launching import launch as module
from training.launching.launch import LAUNCH_ID

ROOT = Path(__file__).resolve().parents[2]
MARK = f"""
    import json, os, pathlib, sys
    folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
    (folder / "complete.json").write_text(json.dumps({{"launch": os.environ["{LAUNCH_ID}"]}}))
"""


@pytest.fixture(params=["deepspeed", "main.py"])
def launch(tmp_path, request):
    """Starts a launch where `deepspeed`, or the only rank's program, is the given script."""
    (tmp_path / "out").mkdir()
    starts = request.param
    ranks = ["--num_gpus", "2" if starts == "deepspeed" else "1"]
    started: list[subprocess.Popen[str]] = []

    def start(does: str, *flags: str) -> subprocess.Popen[str]:
        wrong = f"#!{sys.executable}\nraise SystemExit('the other one was to be started')"
        for name in ("deepspeed", "main.py"):
            script = f"#!{sys.executable}\n{textwrap.dedent(does)}" if name == starts else wrong
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "training.launching.launch", *ranks, "main.py"]
        flags = flags or ("--output_dir", str(tmp_path / "out"))
        process = subprocess.Popen(
            [*command, *flags], env=env, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_success_needs_the_marker_of_this_launch(launch):
    assert launch(MARK).wait(30) == 0


@pytest.mark.parametrize("marker", [None, "{}", '{"launch": "an earlier one"}', "{"])
def test_a_launchers_success_without_the_marker_is_a_failure(launch, tmp_path, marker):
    if marker is not None:
        (tmp_path / "out" / "complete.json").write_text(marker)
    process = launch("pass")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "did not finish" in errors


@pytest.mark.parametrize(
    "last", [["--output_dir", "{out}"], ["--output_dir={out}"], ["--output-dir", "{out}"]]
)
def test_the_last_of_two_output_folders_counts(launch, tmp_path, last):
    own = [word.format(out=tmp_path / "out") for word in last]
    mark = MARK.replace('sys.argv[sys.argv.index("--output_dir") + 1]', f'"{tmp_path / "out"}"')
    assert launch(mark, "--output_dir", str(tmp_path / "default"), *own).wait(30) == 0


@pytest.mark.parametrize(
    ("does", "status"),
    [
        ("raise SystemExit(2)", 2),
        ("raise SystemExit(75)", 75),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_any_other_status_is_returned(launch, does, status):
    assert launch(does).wait(30) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_any_rank_listens_ends_all_and_loses_nothing(launch, tmp_path, number):
    process = launch(
        """
        import pathlib, subprocess, time
        child = subprocess.Popen(["sleep", "1000"])
        pathlib.Path("child.new").write_text(str(child.pid))
        pathlib.Path("child.new").rename("child")
        time.sleep(1000)
        """
    )
    child = wait_for_pid(tmp_path / "child")
    process.send_signal(number)
    assert process.wait(30) == 75
    assert not is_alive(child)


def test_a_run_that_is_complete_is_a_success_however_its_last_process_ended(launch):
    process = launch(MARK + "    os.kill(os.getpid(), 9)")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(errors.splitlines()) == 1
    assert "complete" in errors
    assert "137" in errors


RANKS = """
import os, pathlib, signal, subprocess, sys, time
rank = '''
import json, os, pathlib, signal, time
def stop(number, frame):
    seen.append(number)
    if len(seen) == 1 and pathlib.Path("saves").exists():
        marker = {"launch": os.environ["CLASSIC_RLHF_LAUNCH"]}
        time.sleep(0.5)  # the launcher may be gone by then
        pathlib.Path("out/stopped.json").write_text(json.dumps(marker))
        os._exit(75)
seen = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, stop)
pathlib.Path("rank.new").write_text(str(os.getpid()))
pathlib.Path("rank.new").rename("rank")
while True:
    time.sleep(0.1)
'''
if "RANK" in os.environ:
    exec(rank)
started = subprocess.Popen([sys.executable, "-c", rank], env={**os.environ, "RANK": "0"})
status = started.wait()
raise SystemExit(1 if pathlib.Path("hides").exists() else status)
"""


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_saves_on_a_signal_ends_with_75(launch, tmp_path, number, hides):
    (tmp_path / "saves").touch()
    if hides:
        (tmp_path / "hides").touch()
    process = launch(RANKS)
    rank = wait_for_pid(tmp_path / "rank")
    process.send_signal(number)
    assert process.wait(30) == 75
    assert not is_alive(rank)


def test_killing_a_launcher_while_its_rank_saves_loses_nothing(launch, tmp_path):
    (tmp_path / "saves").touch()
    process = launch(RANKS)
    rank = wait_for_pid(tmp_path / "rank")
    parent = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(rank if parent == process.pid else parent, signal.SIGTERM)
    assert process.wait(30) == 75
    assert not is_alive(rank)


def test_a_rank_that_does_not_save_is_not_reported_as_saved(launch, tmp_path):
    process = launch(
        """
        import os, pathlib, signal, sys, time
        if "RANK" not in os.environ:
            os.environ["RANK"] = "0"
            os.execv(sys.executable, [sys.executable, __file__])
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
        pathlib.Path("rank.new").write_text(str(os.getpid()))
        pathlib.Path("rank.new").rename("rank")
        time.sleep(1000)
        """
    )
    wait_for_pid(tmp_path / "rank")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_launch_waits_for_a_rank_that_saves_after_its_launcher_died(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    saves = f"""
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(2)
    pathlib.Path("{tmp_path}/saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("{tmp_path}/rank").write_text("1")
time.sleep(1000)
"""
    env = {**os.environ, "RANK": "0"}
    command = [sys.executable, "-c", saves]
    with subprocess.Popen(command, env=env, start_new_session=True) as rank:
        wait_until_written(tmp_path / "rank")
        module._end_group(module._Launched(group=rank.pid))
        assert rank.wait(10) == 75
    assert (tmp_path / "saved").exists()


def test_signals_before_the_launcher_starts_do_not_reach_our_process_group(monkeypatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "signal_group", lambda *call: sent.append(call))
    launched = module._Launched()
    launched.receive(signal.SIGTERM)
    launched.first_at -= 3.0  # an echo no more
    launched.receive(signal.SIGINT)
    assert sent == []
    launched.group = 4_194_305  # above any process id
    launched.forward_signal()
    assert sent == [(4_194_305, signal.SIGKILL)]


@pytest.mark.parametrize("launch", ["deepspeed"], indirect=True)
def test_several_ranks_do_not_inherit_a_rank_from_the_environment(launch, tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    told = (
        MARK
        + """
    places = {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(os.environ)
    pathlib.Path("told").write_text(f"{sorted(places)} {os.environ['CLASSIC_RLHF_LAUNCHED_BY']}")
    """
    )
    process = launch(told)
    assert process.wait(30) == 0
    assert (tmp_path / "told").read_text() == f"[] {process.pid}"


def test_an_echo_of_a_signal_is_ignored_and_a_second_signal_ends_all(launch, tmp_path):
    process = launch(RANKS)  # whose rank does not stop
    rank = wait_for_pid(tmp_path / "rank")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(2.2)
    assert process.poll() is None
    assert is_alive(rank)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert not is_alive(rank)


def test_processes_left_by_a_failed_launcher_are_ended(launch, tmp_path):
    process = launch(
        """
        import pathlib, subprocess
        child = subprocess.Popen(["sleep", "1000"])
        pathlib.Path("child").write_text(str(child.pid))
        raise SystemExit(3)
        """
    )
    assert process.wait(30) == 3
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_a_zombie_that_nobody_reaps_does_not_delay_the_end(monkeypatch):
    """In a container whose first process waits for no children."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    with subprocess.Popen(["true"], start_new_session=True) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        module._end_group(module._Launched(group=zombie.pid))


def wait_for_pid(file: Path) -> int:
    wait_until_written(file)
    return int(file.read_text())


def wait_until_written(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")

"""PPO on two hosts: the link between them is cut, and a host that does not come.

`torchrun` is called on each host, and `run.sh` with HOSTFILE and NODE_RANK, which calls
`deepspeed`. Nobody says which network interface to use.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.network.namespaces import ADDRESSES, TwoHosts
from tests.stages.processes import LAUNCH_SECONDS, ROOT, Program, started, wait_until
from training.launching.processes import find_free_port

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.full]

LAUNCHERS = ("torchrun", "deepspeed")
STEPS = 30
SILENT_SECONDS = 24.0
ENDING_SECONDS = 30.0  # of launchers that see their ranks end, on a busy machine
MAIN = ROOT / "step3_ppo" / "main.py"
FLAGS = (
    f"--max_steps {STEPS} --rollout_batch_size 8 --minibatch_size 4 --max_new_tokens 6 "
    f"--save_every 2 --eval_every 15 --dtype fp32 --host_timeout_minutes {SILENT_SECONDS / 60}"
)
# torchrun returns 1 for every failure of its ranks.
LOST = {"torchrun": 1, "deepspeed": 4}


@dataclass(frozen=True)
class Run:
    """How stage 3 is started on each of two hosts, writing to one folder."""

    hosts: TwoHosts
    launcher: str
    models: list[Any]
    folder: Path
    env: dict[str, str]

    def command(self, host: int, port: int) -> tuple[list[Any], dict[str, str]]:
        flags = [*self.models, "--output_dir", self.folder / "out", *FLAGS.split()]
        if self.launcher == "torchrun":
            torchrun = f"torchrun --nnodes 2 --node_rank {host} --nproc_per_node 1 "
            torchrun += f"--master_addr {ADDRESSES[0]} --master_port {port}"
            return [*torchrun.split(), MAIN, *flags], self.env
        hostfile = self.folder / "hosts"
        hostfile.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
        names = {"HOSTFILE": hostfile, "NODE_RANK": host, "MASTER_PORT": port}
        env = self.env | {name: str(value) for name, value in names.items()}
        return ["bash", MAIN.with_name("run.sh"), *flags], env

    @contextmanager
    def started(self) -> Iterator[list[Program]]:
        port = find_free_port()
        with ExitStack() as stack:
            programs = []
            for host in (0, 1):
                command, env = self.command(host, port)
                inside = [*self.hosts.inside(host), *command]
                programs.append(stack.enter_context(started(inside, self.folder, env)))
            yield programs

    def to_the_end(self) -> None:
        with self.started() as programs:
            for program in programs:
                assert program.wait() == 0, program.errors.read_text()

    def results(self) -> dict[str, bytes]:
        names = ("model.safetensors", "critic/model.safetensors", "metrics.jsonl", "samples.jsonl")
        return {name: (self.folder / "out" / name).read_bytes() for name in names}


@dataclass(frozen=True)
class Cut:
    """The two programs of a run after the link was cut."""

    statuses: list[int]
    seconds: float  # from the cut to the end of both
    errors: list[str]
    left_behind: list[dict[int, list[str]]]
    is_finished: bool


@pytest.fixture(scope="module")
def runs(pairs, material, scorer, user_env, tmp_path_factory):
    models = ["--actor_model_name_or_path", material.base]
    models += ["--reward_model_name_or_path", scorer]
    return {
        name: Run(hosts, launcher, models, tmp_path_factory.mktemp(name), user_env)
        for name, launcher, hosts in (
            ("whole", "torchrun", pairs[0]),
            ("torchrun", "torchrun", pairs[0]),
            ("deepspeed", "deepspeed", pairs[1]),
        )
    }


def cut(run: Run) -> Cut:
    """Cut the link after a checkpoint, and restore it when both programs have ended."""
    saved = run.folder / "out" / "checkpoints" / "step_000002"
    with run.started() as programs:
        assert wait_until(saved.is_dir, LAUNCH_SECONDS), programs[0].errors.read_text()
        run.hosts.cut()
        since = time.monotonic()
        try:
            statuses = [program.wait(SILENT_SECONDS + ENDING_SECONDS) for program in programs]
            seconds = time.monotonic() - since
            for program in programs:
                program.all_gone_within(5)
        finally:
            run.hosts.mend()
        errors = [program.errors.read_text() for program in programs]
        left_behind = [program.family() for program in programs]
    is_finished = (run.folder / "out" / "complete.json").exists()
    return Cut(statuses, seconds, errors, left_behind, is_finished)


@pytest.fixture(scope="module")
def cuts(runs) -> dict[str, Cut]:
    with ThreadPoolExecutor() as pool:
        return dict(zip(LAUNCHERS, pool.map(cut, map(runs.get, LAUNCHERS)), strict=True))


@pytest.fixture(scope="module")
def resumed(runs, cuts) -> dict[str, dict[str, bytes]]:
    """Outputs of an undisturbed run, and of runs that were cut and started again."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(Run.to_the_end, runs.values()))
    return {name: run.results() for name, run in runs.items()}


@pytest.mark.parametrize("launcher", LAUNCHERS)
class TestALinkThatIsCut:
    def test_ends_both_hosts_within_the_time_out(self, cuts, launcher):
        found = cuts[launcher]
        assert not found.is_finished
        assert found.statuses == [LOST[launcher]] * 2
        assert found.seconds < SILENT_SECONDS + ENDING_SECONDS
        assert found.left_behind == [{}, {}]

    def test_is_reported_on_each_host_with_the_other_host_and_what_to_do(self, cuts, launcher):
        for errors, rank in zip(cuts[launcher].errors, (1, 0), strict=True):
            said = [line for line in errors.splitlines() if line.startswith("main.py: error: ")]
            assert len(said) == 1, errors
            assert f"({ADDRESSES[rank]}, rank {rank}) for 24 s (--host_timeout_minutes)" in said[0]
            assert "run the same command again on every host" in said[0]

    def test_loses_nothing_once_the_same_command_is_run_again(self, resumed, launcher):
        for name, expected in resumed["whole"].items():
            assert resumed[launcher][name] == expected, name


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_does_not_come_is_a_timely_error(runs, tmp_path, host):
    run = runs["deepspeed"]
    command, env = run.command(host, find_free_port())
    command += ["--output_dir", tmp_path / "out", "--host_timeout_minutes", "0.1"]
    with started([*run.hosts.inside(host), *command], tmp_path, env) as program:
        assert program.wait() == 4
        errors = program.errors.read_text()
        said = [line for line in errors.splitlines() if line.startswith("main.py: error: ")]
        missing = "of 2 ranks these did not come within 6 s (--host_timeout_minutes): 1; here are"
        expected = [missing, f"no answer from rank 0 at {ADDRESSES[0]}:"][host]
        assert len(said) == 1, errors
        assert expected in said[0]
        assert program.all_gone_within(ENDING_SECONDS)
    assert not (tmp_path / "out").exists()


def test_torchrun_waits_for_a_host_for_its_own_timeout(runs, tmp_path):
    run = runs["torchrun"]
    command, env = run.command(0, find_free_port())
    command[1:1] = ["--rdzv_conf", "timeout=5"]
    with started([*run.hosts.inside(0), *command], tmp_path, env) as program:
        assert program.wait() == 1
        assert "1/2 clients joined" in program.errors.read_text()

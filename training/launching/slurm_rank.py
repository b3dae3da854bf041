"""Which rank a task of `srun` is: Slurm's variables in the words of torch's launchers.

Nothing is changed where `srun` did not start this process, or a launcher below it has said already
which rank it is (`torchrun`, `deepspeed`, run.sh). In an `sbatch` script there is no step, though
Slurm sets most of these variables there too; the step of an interactive shell has one task.
"""

import os
import re
from collections.abc import MutableMapping

import torch

FIRST_PORT, PORTS = 20_000, 12_000  # below 32768, where outgoing connections take theirs
STEP_STRIDE = 1_009  # between the ports of two steps of a job: the next jobs' lie beside it


def set_rank_variables(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a task, and its threads.

    MASTER_ADDR, MASTER_PORT and OMP_NUM_THREADS are left as they are where somebody has set them.
    """
    if "RANK" in environ or "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return
    tasks = tasks_on(int(environ["SLURM_NODEID"]), environ["SLURM_STEP_TASKS_PER_NODE"])
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["WORLD_SIZE"] = environ["SLURM_STEP_NUM_TASKS"]
    environ["LOCAL_RANK"] = str(_local_rank(environ))
    environ["LOCAL_WORLD_SIZE"] = str(tasks)
    if environ["WORLD_SIZE"] != "1":
        environ.setdefault("MASTER_ADDR", first_host(environ["SLURM_STEP_NODELIST"]))
        environ.setdefault("MASTER_PORT", str(_port(environ)))
    if "OMP_NUM_THREADS" not in environ:  # without binding a task sees the cores of other jobs too
        cores = environ.get("SLURM_CPUS_PER_TASK") or int(environ["SLURM_CPUS_ON_NODE"]) // tasks
        environ["OMP_NUM_THREADS"] = str(min(max(int(cores), 1), _visible_cores()))
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))


def first_host(nodes: str) -> str:
    """The first name of a list as Slurm writes it: of `rack[1-2]n[07-09,12],m3` rack1n07."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None  # it matches nothing, too
    return re.sub(r"\[([^\]\-,]+)[^\]]*\]", r"\1", first.group())


def tasks_on(node: int, tasks_per_node: str) -> int:
    """Tasks on one of a step's nodes, as Slurm counts them: `4(x2),1` is 4, 4 and 1."""
    counts: list[int] = []
    for word in tasks_per_node.split(","):
        count, _, times = word.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[node]


def _local_rank(environ: MutableMapping[str, str]) -> int:
    """This task's place among the GPUs that it sees: the first where it sees its own alone."""
    task, seen = int(environ["SLURM_LOCALID"]), environ.get("CUDA_VISIBLE_DEVICES", "")
    return task % len(seen.split(",")) if seen else task


def _port(environ: MutableMapping[str, str]) -> int:
    """The same on all ranks of a step, and another one for each job of a host."""
    number = int(environ["SLURM_JOB_ID"]) + STEP_STRIDE * int(environ["SLURM_STEP_ID"])
    return FIRST_PORT + number % PORTS


def _visible_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1

"""Set the rank variables of torch's launchers from those of an `srun` task.

Nothing changes if `srun` did not start this process, or if a launcher below it has set its rank
(`torchrun`, `deepspeed`, run.sh). An `sbatch` script has most of Slurm's variables but no step; the
step of an interactive shell has one task.
"""

import os
import re
from collections.abc import MutableMapping

import torch

from training.launching.processes import count_cores

FIRST_PORT, PORTS = 20_000, 12_000  # below 32768, where outgoing connections take theirs
STEP_STRIDE = 1_009  # between the ports of two steps of a job; those of the next jobs are adjacent


def set_rank_variables(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a task, and its threads.

    MASTER_ADDR, MASTER_PORT and OMP_NUM_THREADS keep a value that is already set.
    """
    if "RANK" in environ or "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return
    tasks = count_tasks(int(environ["SLURM_NODEID"]), environ["SLURM_STEP_TASKS_PER_NODE"])
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["WORLD_SIZE"] = environ["SLURM_STEP_NUM_TASKS"]
    task, seen = int(environ["SLURM_LOCALID"]), environ.get("CUDA_VISIBLE_DEVICES", "")
    # The task's index among its visible GPUs: 0 if it only sees its own.
    environ["LOCAL_RANK"] = str(task % len(seen.split(",")) if seen else task)
    environ["LOCAL_WORLD_SIZE"] = str(tasks)
    if environ["WORLD_SIZE"] != "1":
        environ.setdefault("MASTER_ADDR", parse_first_host(environ["SLURM_STEP_NODELIST"]))
        # One port for all ranks of a step, and different ones for jobs that share a host.
        number = int(environ["SLURM_JOB_ID"]) + STEP_STRIDE * int(environ["SLURM_STEP_ID"])
        environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % PORTS))
    if "OMP_NUM_THREADS" not in environ:  # an unbound task would see the cores of other jobs
        cores = environ.get("SLURM_CPUS_PER_TASK") or int(environ["SLURM_CPUS_ON_NODE"]) // tasks
        environ["OMP_NUM_THREADS"] = str(min(max(int(cores), 1), count_cores()))
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))


def parse_first_host(nodes: str) -> str:
    """Return the first name of Slurm's list of nodes: `rack[1-2]n[07-09,12],m3` gives rack1n07."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None  # it also matches the empty string
    return re.sub(r"\[([^\]\-,]+)[^\]]*\]", r"\1", first.group())


def count_tasks(node: int, tasks_per_node: str) -> int:
    """Return the tasks on a node, from Slurm's list for all nodes: `4(x2),1` is 4, 4 and 1."""
    counts: list[int] = []
    for word in tasks_per_node.split(","):
        count, _, times = word.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[node]

"""The rank of a task of `srun`, from variables as Slurm 22.05 sets them."""

import pytest
import torch

from training.launching.slurm_rank import count_tasks, parse_first_host, set_rank_variables

TASK = {  # the third of four tasks on two nodes: job 21034, step 1
    "SLURM_JOB_ID": "21034",
    "SLURM_STEP_ID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_ON_NODE": "2",
    "OMP_NUM_THREADS": "1",
}


def wired(**changes: str) -> dict[str, str]:
    """Return the variables that are set for the task with these changes, without Slurm's."""
    environ = TASK | changes
    set_rank_variables(environ)
    return {name: value for name, value in environ.items() if not name.startswith("SLURM_")}


def test_a_tasks_rank_variables_are_set():
    assert wired() == {
        "RANK": "2",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "30043",  # 20000 + (21034 + 1009) % 12000
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    "environ",
    [
        {name: value for name, value in TASK.items() if name != "SLURM_STEP_ID"},  # sbatch's script
        {**TASK, "RANK": "1"},  # torchrun, one launcher per task
        {"PATH": "/bin"},
    ],
)
def test_a_process_that_is_no_task_or_has_a_rank_is_unchanged(environ):
    before = dict(environ)
    set_rank_variables(environ)
    assert environ == before


def test_an_address_and_port_set_by_the_user_are_kept():
    found = wired(MASTER_ADDR="10.0.0.7", MASTER_PORT="29500")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.7", "29500")


def test_a_single_task_gets_no_master_address():
    found = wired(SLURM_PROCID="0", SLURM_NODEID="0", SLURM_STEP_NUM_TASKS="1",
                  SLURM_STEP_TASKS_PER_NODE="1")  # fmt: skip
    assert found["WORLD_SIZE"] == "1"
    assert "MASTER_ADDR" not in found


@pytest.mark.parametrize(
    ("seen", "local_rank"),
    [("0,1,2,3", "3"), ("3", "0"), ("GPU-a,GPU-b", "1"), ("", "3")],
)
def test_a_tasks_local_rank_is_its_index_among_visible_gpus(seen, local_rank):
    assert wired(SLURM_LOCALID="3", CUDA_VISIBLE_DEVICES=seen)["LOCAL_RANK"] == local_rank


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[007,9-12],cpu3", "gpu007"),
        ("rack[1-2]n[07-09,12],m3", "rack1n07"),
        ("login,n[1-2]", "login"),
        ("a-b[3-4].site.org", "a-b3.site.org"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert parse_first_host(nodes) == first


@pytest.mark.parametrize(("node", "tasks"), [(0, 4), (1, 4), (2, 1), (3, 2)])
def test_tasks_of_a_node(node, tasks):
    assert count_tasks(node, "4(x2),1,2") == tasks


@pytest.mark.parametrize(
    ("changes", "threads"),
    [({"SLURM_CPUS_PER_TASK": "1"}, 1), ({"SLURM_CPUS_ON_NODE": "2"}, 1)],
)
def test_a_task_uses_only_its_cores(monkeypatch, changes, threads):
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    environ = {name: text for name, text in TASK.items() if name != "OMP_NUM_THREADS"} | changes
    set_rank_variables(environ)
    assert (environ["OMP_NUM_THREADS"], told) == (str(threads), [threads])

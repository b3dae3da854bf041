"""Faults in signals, launches, Slurm jobs and several hosts."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "status of a stop",
        "a stopped run ends with status 75",
        "training/launching/stopping.py",
        "STOPPED = 75",
        "STOPPED = 0",
        "tests/launching/test_stopping.py::test_a_signal_while_loading_ends_the_process_with_75",
    ),
    Mutation(
        "echo ends the run",
        "an echo of a signal is passed over",
        "training/launching/stopping.py",
        "elif now - _process.asked_at > ECHO_SECONDS:",
        "else:",
        "tests/launching/test_stopping.py::"
        "test_while_training_a_signal_asks_and_a_second_one_ends_the_process",
    ),
    Mutation(
        "success without a marker",
        "success needs the marker of this launch",
        "training/launching/launch.py",
        "if launched.status == 0:\n        sys.stderr.write(NOT_FINISHED)\n        return 1",
        "if launched.status == 0:\n        return 0",
        "tests/launching/test_launch_program.py::"
        "test_a_launchers_success_without_the_marker_is_a_failure",
    ),
    Mutation(
        "ranks left behind",
        "a launch leaves no process behind",
        "training/launching/launch.py",
        "    signal_group(launched.group, signal.SIGTERM)\n",
        "    launched.signals.clear()\n",
        "tests/launching/test_launch_program.py::"
        "test_a_signal_before_any_rank_listens_ends_all_and_loses_nothing",
    ),
    Mutation(
        "stopped jobs are not requeued",
        "a job that was stopped is requeued",
        "training/launching/slurm_job.py",
        "return _requeue()",
        "return status",
        "tests/launching/test_slurm_job.py::test_only_a_stopped_run_is_requeued",
    ),
    Mutation(
        "requeued for ever",
        "a job without progress is not requeued",
        "training/launching/slurm_job.py",
        "if not is_preempted and _read_progress(program) <= before:",
        "if False:",
        "tests/launching/test_slurm_job.py::test_a_run_stopped_without_progress_is_not_requeued",
    ),
    Mutation(
        "ranks of the node",
        "a task of srun has its own rank",
        "training/launching/slurm_rank.py",
        'environ["RANK"] = environ["SLURM_PROCID"]',
        'environ["RANK"] = environ["SLURM_LOCALID"]',
        "tests/launching/test_slurm_rank.py::test_a_tasks_rank_variables_are_set",
    ),
    Mutation(
        "secrets travel",
        "secrets are not handed to other hosts",
        "training/launching/hostfile.py",
        "if name not in NO_SECRETS and any(secret in name for secret in SECRETS):",
        "if False:",
        "tests/launching/test_hostfile.py::test_remote_ranks_get_our_variables_and_the_users_lines",
    ),
]

"""Faults in checkpoints, resuming, logs, schedules and guards."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "half a checkpoint",
        "a checkpoint appears whole by a rename",
        "training/runtime/checkpoint_store.py",
        "os.replace(staging, target)\n        except",
        "shutil.copytree(staging, target)\n        except",
        "tests/runtime/test_checkpoint_store.py::test_what_is_saved_is_found_and_whole",
    ),
    Mutation(
        "checksum not read",
        "a changed file is damage",
        "training/runtime/checkpoint_store.py",
        "if _compute_sha256(path) != digest:",
        "if False:",
        "tests/runtime/test_checkpoint_damage.py::"
        "test_a_damaged_file_is_named_and_the_checkpoint_before_is_used",
    ),
    Mutation(
        "files are not synced",
        "files are on the disk before the rename",
        "training/runtime/checkpoint_store.py",
        "os.fsync(file.fileno())\n        size",
        "size",
        "tests/runtime/test_checkpoint_store.py::test_every_byte_is_synced_before_the_rename",
    ),
    Mutation(
        "changed settings resume",
        "a run resumes under its own settings alone",
        "training/runtime/resume.py",
        "if listed and not args.allow_changed_settings:",
        "if False:",
        "tests/runtime/test_resume.py::test_a_changed_flag_is_named_and_needs_consent",
    ),
    Mutation(
        "changed input resumes",
        "input files with other content are noticed",
        "training/runtime/resume.py",
        "if name in inputs and inputs[name] != digest]",
        "if False]",
        "tests/runtime/test_resume.py::test_data_with_other_content_are_a_changed_setting",
    ),
    Mutation(
        "finished run resumes",
        "a finished run starts again",
        "training/runtime/resume.py",
        "return None if is_finished else _find_newest",
        "return _find_newest",
        "tests/runtime/test_resume.py::test_resume_none_and_a_finished_run_start_from_scratch",
    ),
    Mutation(
        "log is not cut",
        "lines after the checkpoint are cut off",
        "training/runtime/metrics.py",
        "kept = opened.read(size)",
        "kept = opened.read()",
        "tests/runtime/test_metrics.py::test_a_resumed_run_truncates_its_files_and_appends",
    ),
    Mutation(
        "unfinished stage is used",
        "a stage that has not finished is refused",
        "training/runtime/publish.py",
        "and not (folder / COMPLETE_FILE).is_file():",
        "and False:",
        "tests/runtime/test_publish.py::"
        "test_a_folder_is_unfinished_if_a_stage_began_it_and_did_not_end",
    ),
    Mutation(
        "out of memory is a traceback",
        "running out of memory is one line",
        "training/runtime/out_of_memory.py",
        "if isinstance(error, MemoryError | torch.OutOfMemoryError):",
        "if False:",
        "tests/runtime/test_out_of_memory.py::"
        "test_out_of_memory_errors_of_libraries_are_recognized",
    ),
    Mutation(
        "no warm-up",
        "the learning rate rises in the warm-up",
        "training/trainers/schedule.py",
        "return progress / warmup_ratio",
        "return 1.0",
        "tests/trainers/test_schedule.py::test_the_rate_rises_then_decays_to_its_minimum",
    ),
    Mutation(
        "skipped steps count",
        "a skipped step is not counted by the schedule",
        "training/trainers/guards.py",
        "self._schedule.skip_step()",
        "self._schedule.end_step()",
        "tests/trainers/test_guards.py::test_a_skipped_step_gives_its_learning_rate_to_the_next",
    ),
    Mutation(
        "guard never stops",
        "too many skipped steps stop the run",
        "training/trainers/guards.py",
        "if self.in_a_row > self._limit:",
        "if False:",
        "tests/trainers/test_guards.py::"
        "test_the_run_stops_after_more_skipped_steps_in_a_row_than_allowed",
    ),
]

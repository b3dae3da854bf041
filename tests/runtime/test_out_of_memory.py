import errno

import pytest
import torch

from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.arguments.self_check import SelfCheckArgs
from training.arguments.sft import SFTArgs
from training.models.folders import explain_weight_errors
from training.runtime.out_of_memory import explain_out_of_memory, is_out_of_memory, suggest_flags


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_errors_of_libraries_are_recognized(error):
    assert is_out_of_memory(error)
    outer = ValueError("loading failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), OSError(errno.ENOSPC, "No space left"), KeyError("x")]
)
def test_other_errors_pass_unchanged(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), explain_out_of_memory("train", SFTArgs()):
        raise error


def test_the_error_names_the_phase_and_the_flag_with_its_value():
    with pytest.raises(UserError) as raised, explain_out_of_memory("train", SFTArgs()):
        raise MemoryError
    assert str(raised.value).startswith(
        "out of memory while training: lower --micro_batch_tokens (now 4096), or "
        "set --gradient_checkpointing true, or set --lora_rank 16, or "
    )


def test_the_innermost_phase_is_named():
    args = PPOArgs()
    with (
        pytest.raises(UserError, match="while generating"),
        explain_out_of_memory("run", args),
        explain_out_of_memory("generate", args),
    ):
        raise MemoryError


def test_a_lack_of_memory_while_reading_weights_is_not_reported_as_damage():
    with (
        pytest.raises(UserError, match="out of memory while loading the models"),
        explain_out_of_memory("load", SFTArgs()),
        explain_weight_errors("folder"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize(
    ("phase", "args", "ranks", "on_gpu", "expected"),
    [
        (
            "generate", PPOArgs(), 1, False,
            "lower --generation_batch_size (now 256) or --max_new_tokens (now 40), or free memory",
        ),
        ("score", PPOArgs(), 2, True, "lower --micro_batch_tokens (now 4096), or free memory"),
        (
            "load", PPOArgs(), 2, False,
            "set --critic shared, or set --lora_rank 16, or set --zero_stage 3, or use a smaller "
            "model",
        ),
        (
            "train", SFTArgs(zero_stage=3, gradient_checkpointing=True), 2, True,
            "lower --micro_batch_tokens (now 4096), or set --lora_rank 16, or set "
            "--offload_optimizer true, or free memory",
        ),
        (
            "load", SFTArgs(zero_stage=3, offload_optimizer=True, lora_rank=2), 2, True,
            "set --offload_param true, or use a smaller model",
        ),
        (
            "train", SFTArgs(lora_rank=8, micro_batch_tokens=512), 1, False,
            "lower --micro_batch_tokens (now 512), or set --gradient_checkpointing true, or set "
            "--zero_stage 3 on more processes, or free memory",
        ),
        (
            "run", CollectArgs(), 1, False,
            "lower --micro_batch_tokens (now 4096) or --generation_batch_size (now 256) or "
            "--max_new_tokens (now 40), or free memory",
        ),
        ("load", SelfCheckArgs(), 1, False, "use a smaller model"),
        ("run", SelfCheckArgs(), 1, True, "lower --micro_batch_tokens (now 4096) or "
         "--max_new_tokens (now 16), or free memory"),
    ],
)  # fmt: skip
def test_only_flags_that_help_and_are_not_set_are_suggested(phase, args, ranks, on_gpu, expected):
    assert suggest_flags(phase, args, ranks=ranks, on_gpu=on_gpu) == expected

"""DeepSpeed engines: only this module wraps, steps, shards and gathers models."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError
from training.runtime import ds_config, gradients
from training.runtime.distributed import World
from training.runtime.out_of_memory import explain_out_of_memory


def compute_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: --dtype, where `auto` is bf16 if the hardware has it."""
    if choice == "fp32":
        return torch.float32
    supported = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else has_cpu_bf16()
    )
    if choice == "bf16" and not supported:
        raise UserError(
            "--dtype bf16: this processor has no bf16 instructions, so it would be slower than "
            "fp32; use --dtype auto or fp32"
        )
    return torch.bfloat16 if supported else torch.float32


def has_cpu_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


@contextmanager
def shard_while_loading(args: CommonArgs, world: World) -> Iterator[None]:
    """Inside, `from_pretrained` splits weights over the ranks as it reads them (ZeRO-3 only).

    Checks --dtype and DeepSpeed's configuration first, before any weight is read.
    """
    compute_dtype(args.dtype, world.device)
    config = ds_config.build_config(args, world.size)
    alive = None  # transformers shards while an object of this class is alive
    if args.zero_stage == 3:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        alive = HfDeepSpeedConfig(config)  # type: ignore[no-untyped-call]
    try:
        with explain_out_of_memory("load", args):
            yield
    finally:
        del alive


class TrainingEngine:
    """A DeepSpeed engine that takes any number of micro-batches of any size per step.

    In a step all ranks call `backward` equally often, the last time with `last=True`, then
    `compute_gradient_norm`, then `step` or `drop`. Losses are summed over micro-batches and ranks.
    """

    def __init__(self, engine: Any, world: World) -> None:
        self._engine = engine
        self._world = world
        self._base_lrs = [group["lr"] for group in engine.optimizer.param_groups]

    @property
    def module(self) -> Any:
        return self._engine.module

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self._engine(*inputs, **options)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`. Undoes DeepSpeed's mean over ranks: the result is a sum."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size)

    def compute_gradient_norm(self) -> float:
        """Return the global norm before clipping, equal on all ranks; inf or NaN if an entry is."""
        return gradients.compute_global_norm(self._engine)

    def step(self, lr_scale: float) -> None:
        """Clip, update, clear gradients. The norm must be finite."""
        groups = self._engine.optimizer.param_groups
        for group, base in zip(groups, self._base_lrs, strict=True):
            group["lr"] = base * lr_scale
        self._engine.step()
        gradients.forget_norm(self._engine)

    def drop(self) -> None:
        """Clear the gradients without a step; weights and optimizer state stay as they are."""
        gradients.drop(self._engine)

    def find_bad_gradients(self) -> list[str]:
        """Name parameters whose gradient is not finite on some rank; all ranks call this."""
        return gradients.find_bad_gradients(self._engine, self._world)

    @property
    def zero_stage(self) -> int:
        stage: int = self._engine.zero_optimization_stage()
        return stage

    def list_optimizers(self) -> Sequence[Optimizer]:
        """List the optimizers, which keep their state by parameter (no ZeRO)."""
        optimizer = self._engine.optimizer
        parts: Sequence[Optimizer] = getattr(optimizer, "parts", (optimizer,))
        return parts

    def read_flat_optimizer_states(self) -> list[dict[str, Tensor]]:
        """Return the state of each of this rank's flat shards (ZeRO); empty before a step."""
        self._link_shards()
        client = self._engine.optimizer.optimizer
        return [client.state[shard] for shard in self._list_flat_shards()]

    def make_flat_optimizer_states(self, example: Mapping[str, Tensor]) -> None:
        """Allocate state with these keys (ZeRO); their values are set by parameter afterwards.

        Only a 0-d value, the count of steps, is set here. DeepSpeed itself would allocate the
        state in the first step.
        """
        zero = self._engine.optimizer
        for shard in self._list_flat_shards():
            zero.optimizer.state[shard] = {
                key: value.clone() if value.dim() == 0 else torch.zeros_like(shard)
                for key, value in example.items()
            }
        self._link_shards()

    def _link_shards(self) -> None:
        """Link parameters to their state again.

        ZeRO 1 and 2 do so once, in the first step, when the second group has no state yet.
        """
        zero = self._engine.optimizer
        shards = self._list_flat_shards()
        if self.zero_stage < 3 and all(zero.optimizer.state[shard] for shard in shards):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _list_flat_shards(self) -> list[Tensor]:
        zero = self._engine.optimizer
        shards: list[Tensor] = (
            zero.single_partition_of_fp32_groups
            if self.zero_stage < 3
            else zero.fp32_partitioned_groups_flat
        )
        return shards


def wrap_trainable(
    module: nn.Module, args: CommonArgs, world: World, optimizer: Callable[[nn.Module], Optimizer]
) -> TrainingEngine:
    """Wrap a module for training under the run's ZeRO stage; `optimizer(module)` is called here."""
    import deepspeed

    if args.gradient_checkpointing:
        _enable_gradient_checkpointing(module)
    if args.zero_stage != 3:
        _cast_frozen_matrices(module, compute_dtype(args.dtype, world.device))
    module.train()
    with explain_out_of_memory("load", args):
        module.to(world.device)
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer(module),
            config=ds_config.build_config(args, world.size),
            dist_init_required=False,
        )
    if world.size == 1 and not engine.zero_optimization():
        # With one rank there is nothing to sum; DeepSpeed would copy all gradients twice.
        engine.enable_backward_allreduce = False
    return TrainingEngine(engine, world)


def wrap_frozen(module: nn.Module, args: CommonArgs, world: World) -> nn.Module:
    """Move a module without training to the device; under ZeRO-3 return it sharded."""
    module.requires_grad_(False)
    module.eval()
    if args.zero_stage != 3:
        with explain_out_of_memory("load", args):
            _cast_frozen_matrices(module, compute_dtype(args.dtype, world.device))
            return module.to(world.device)
    import deepspeed

    config = ds_config.build_frozen_config(ds_config.build_config(args, world.size))
    with explain_out_of_memory("load", args):
        engine, *_ = deepspeed.initialize(model=module, config=config, dist_init_required=False)
    engine.eval()
    wrapped: nn.Module = engine
    return wrapped


def _cast_frozen_matrices(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast frozen matrices once; autocast would cast them in each forward, to the same values.

    Norms, embeddings and heads stay in fp32.
    """
    from transformers.pytorch_utils import Conv1D

    models: list[Any] = [m for m in module.modules() if hasattr(m, "get_output_embeddings")]
    heads = [model.get_output_embeddings() for model in models]
    inside = {id(child): child for model in models for child in model.modules()}
    for child in inside.values():
        is_matrix = isinstance(child, nn.Linear | Conv1D)
        is_head = any(child is head for head in heads)
        if is_matrix and not is_head and not child.weight.requires_grad:
            child.to(dtype)


def _enable_gradient_checkpointing(module: nn.Module) -> None:
    for child in module.modules():
        enable: Any = getattr(child, "gradient_checkpointing_enable", None)
        if enable is not None:
            enable({"use_reentrant": False})
            return
    raise UserError("--gradient_checkpointing: this model does not support it; leave it out")


def gather_parameters(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
    """Inside, these parameters are whole on every rank, for reading; a no-op unless sharded."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(sharded)
    return context


def collect_weights(module: nn.Module, world: World) -> dict[str, Tensor]:
    """Copy all weights to rank 0's host memory, by name; an empty dict on other ranks.

    Tied weights appear once, under their first name. One parameter is gathered at a time.
    """
    weights = {}
    for name, parameter in module.named_parameters():
        with gather_parameters([parameter]):
            if world.is_main:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return weights

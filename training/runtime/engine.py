"""DeepSpeed engines: the only place where models are wrapped, stepped, sharded and gathered."""

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
    """What matrix products run in: bf16 where asked for, or where `auto` finds it pays."""
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

    Mistakes in what engines are made of are found here, before any weight is read.
    """
    compute_dtype(args.dtype, world.device)
    config = ds_config.build_config(args, world.size)
    if args.zero_stage != 3:
        with explain_out_of_memory("load", args):
            yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers looks for a living object of this class; it is dropped on the way out.
    alive = HfDeepSpeedConfig(config)  # type: ignore[no-untyped-call]
    try:
        with explain_out_of_memory("load", args):
            yield
    finally:
        del alive


class TrainingEngine:
    """A DeepSpeed engine driven by micro-batches of any number and size.

    `backward` takes a loss that is this rank's share of a sum over all ranks; all ranks call it
    equally often in a step, the last time with `last=True`, then `compute_gradient_norm`, and then
    `step` or `drop`.
    """

    def __init__(self, engine: Any, world: World) -> None:
        self._engine = engine
        self._world = world
        self._base_lrs = [group["lr"] for group in self._groups()]

    @property
    def module(self) -> Any:
        return self._engine.module

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self._engine(*inputs, **options)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`; the mean that DeepSpeed takes over ranks is undone."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size)

    def compute_gradient_norm(self) -> float:
        """The global norm before clipping, equal on all ranks; not finite where a gradient is."""
        return gradients.compute_global_norm(self._engine)

    def step(self, lr_scale: float) -> None:
        """Clip, update, clear gradients. Not for gradients whose norm is not finite."""
        for group, base in zip(self._groups(), self._base_lrs, strict=True):
            group["lr"] = base * lr_scale
        self._engine.step()
        gradients.forget_norm(self._engine)

    def drop(self) -> None:
        """Clear the gradients in place of `step`: weights and optimizer state stay."""
        gradients.drop(self._engine)
        gradients.forget_norm(self._engine)

    def find_bad_gradients(self) -> list[str]:
        """Parameters whose gradient is not finite on some rank; all ranks call this."""
        return gradients.find_bad_gradients(self._engine, self._world)

    @property
    def zero_stage(self) -> int:
        stage: int = self._engine.zero_optimization_stage()
        return stage

    def optimizers(self) -> Sequence[Optimizer]:
        """Those that keep their state by parameter: without ZeRO, where nothing is flattened."""
        optimizer = self._engine.optimizer
        parts: Sequence[Optimizer] = getattr(optimizer, "parts", (optimizer,))
        return parts

    def flat_optimizer_states(self) -> list[dict[str, Tensor]]:
        """Under ZeRO, what this rank keeps for each of its flat shards; empty before a step."""
        self._link_shards()
        client = self._engine.optimizer.optimizer
        return [client.state[shard] for shard in self._flat_shards()]

    def make_flat_optimizer_states(self, example: Mapping[str, Tensor]) -> None:
        """Under ZeRO, make room for these keys, which are set by parameter afterwards.

        A 0-d value (the count of steps) is the same for all and set here. The shards are
        DeepSpeed's private attributes: it makes their state in the first step alone.
        """
        zero = self._engine.optimizer
        for shard in self._flat_shards():
            zero.optimizer.state[shard] = {
                key: value.clone() if value.dim() == 0 else torch.zeros_like(shard)
                for key, value in example.items()
            }
        self._link_shards()

    def _link_shards(self) -> None:
        """Let parameters know where their state is.

        ZeRO 1 and 2 do so once, after the first group's first step, when the next has no state yet.
        """
        zero = self._engine.optimizer
        if self.zero_stage < 3 and all(
            zero.optimizer.state[shard] for shard in self._flat_shards()
        ):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _flat_shards(self) -> list[Tensor]:
        zero = self._engine.optimizer
        name = "fp32_partitioned_groups_flat" if self.zero_stage == 3 else (
            "single_partition_of_fp32_groups")  # fmt: skip
        shards: list[Tensor] = getattr(zero, name)
        return shards

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        return groups


def wrap_trainable(
    module: nn.Module, args: CommonArgs, world: World, optimizer: Callable[[nn.Module], Optimizer]
) -> TrainingEngine:
    """Wrap a module for training under the run's ZeRO stage; `optimizer` builds its optimizer."""
    import deepspeed

    if args.gradient_checkpointing:
        _checkpoint_activations(module)
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
        # Nobody to add gradients up with; DeepSpeed would copy them all there and back.
        engine.enable_backward_allreduce = False
    return TrainingEngine(engine, world)


def wrap_frozen(module: nn.Module, args: CommonArgs, world: World) -> nn.Module:
    """A module that is only read: sharded under ZeRO-3, otherwise plain on the rank's device."""
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
    """Keep what is not trained in the type that it is multiplied in: the products are the same.

    Autocast would cast it in each forward. Norms, embeddings and heads stay in fp32.
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


def _checkpoint_activations(module: nn.Module) -> None:
    for child in module.modules():
        enable: Any = getattr(child, "gradient_checkpointing_enable", None)
        if enable is not None:
            enable({"use_reentrant": False})
            return
    raise UserError("--gradient_checkpointing: this model does not support it; leave it out")


def gather_parameters(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[Any]:
    """Inside, these parameters are whole on every rank, to be read; a no-op unless sharded."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(sharded)
    return context


def collect_weights(module: nn.Module, world: World) -> dict[str, Tensor]:
    """Copies on the host of all weights by name, on rank 0; an empty dict elsewhere.

    Tied weights appear once, under their first name. One parameter is gathered at a time.
    """
    weights = {}
    for name, parameter in module.named_parameters():
        with gather_parameters([parameter]):
            if world.is_main:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return weights

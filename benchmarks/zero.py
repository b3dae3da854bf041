"""Time a rollout on several ranks under a ZeRO stage beside one under ZeRO 0.

python -m benchmarks.zero --size small --batch 32 --ranks 2 --zero_stage 3
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal

from benchmarks.arguments import BenchmarkArgs
from benchmarks.models import get_vocabulary_size, make_rows
from benchmarks.paired import compare
from benchmarks.setting import OurSide
from training.arguments.parsing import arg, parse_args, require


@dataclass(frozen=True, kw_only=True)
class ZeroBenchmarkArgs(BenchmarkArgs):
    """Flags of this benchmark."""

    batch: int = arg(32, "Responses of a rollout, over all ranks.")
    ranks: int = arg(2, "Processes per side, on this machine.")
    zero_stage: Literal[1, 2, 3] = arg(3, "ZeRO stage of our side; the peer has 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.ranks >= 1 and self.batch % self.ranks == 0,
            f"--batch ({self.batch}) must be a multiple of --ranks, got {self.ranks}",
        )


def start_ranks(args: ZeroBenchmarkArgs, stage: int | None = None) -> Callable[[], float]:
    """Start the ranks and return a run of a rollout, with weights from the training engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(args.ranks):
        ours, theirs = context.Pipe()
        target = (args, args.zero_stage if stage is None else stage, rank, port, theirs)
        context.Process(target=serve_rank, args=target, daemon=True).start()
        pipes.append(ours)

    def run() -> float:
        for pipe in pipes:
            pipe.send("run")
        return float(sum(pipe.recv() for pipe in pipes))

    run()  # when it returns, every rank has its model
    return run


def serve_rank(args: ZeroBenchmarkArgs, stage: int, rank: int, port: int, pipe: Connection) -> None:
    """One rank: a rollout of its share whenever it is told."""
    import torch

    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": args.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(max((os.cpu_count() or 1) // args.ranks, 1))
    run = prepare_rollouts(args, stage, rank)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return  # the benchmark is over
        pipe.send(run())


def prepare_rollouts(args: ZeroBenchmarkArgs, stage: int, rank: int) -> Callable[[], float]:
    """Return a run of this rank's part of a rollout, by the hybrid engine of a training engine."""
    from training.arguments.ppo import PPOArgs
    from training.hybrid_engine.sampling import SampleKey
    from training.models.loading import load_causal_lm
    from training.models.policy import Policy
    from training.models.tokenizers import load_tokenizer
    from training.runtime import engine
    from training.trainers.ppo import setup

    files = OurSide(args, args.prompt + args.answer)
    settings: Any = PPOArgs(
        output_dir=str(files.folder / "out"),
        zero_stage=stage,  # type: ignore[arg-type]
        dtype=args.dtype,
        max_new_tokens=args.answer,
        generation_batch_size=args.batch // args.ranks,
    )
    world = files.join(settings)
    tokenizer = load_tokenizer(files.lm, flag="")
    with engine.shard_while_loading(settings, world):
        lm = load_causal_lm(files.lm, tokenizer, device=world.device, dropout=0.0)
        dtype = engine.compute_dtype(args.dtype, world.device)
        policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype)
    optimizer = partial(setup.make_actor_optimizer, args=settings)
    engine.wrap_trainable(policy, settings, world, optimizer)
    hybrid = setup.make_hybrid_engine(policy.lm, settings, world, tokenizer)
    vocabulary = get_vocabulary_size(args.size)
    prompts = make_rows([args.prompt] * args.batch, vocabulary, seed=1)[rank :: args.ranks]
    keys = [SampleKey(0, 1, rank + row * args.ranks, 0) for row in range(len(prompts))]

    def run() -> float:
        with hybrid.generation() as generate:
            responses = generate(prompts, keys)
        assert files.folder.exists()
        return float(responses.mask.sum())

    return run


def main() -> None:
    args = parse_args(ZeroBenchmarkArgs)
    peer = partial(start_ranks, stage=0)
    compare(args, ours=start_ranks, peer=peer, unit="new tokens", with_memory=False)


if __name__ == "__main__":
    main()

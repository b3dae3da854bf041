"""Time generation alone: the hybrid engine beside `transformers` generate.

python -m benchmarks.rollout --size small --batch 32 --prompt 64 --answer 64 --peer transformers
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.arguments import BenchmarkArgs
from benchmarks.models import get_vocabulary_size, make_rows, make_shape, write_models
from benchmarks.paired import compare
from benchmarks.setting import choose_dtype
from training.arguments.parsing import arg, parse_args
from training.estimates.roofline import Machine


@dataclass(frozen=True, kw_only=True)
class RolloutBenchmarkArgs(BenchmarkArgs):
    """Flags of this benchmark."""

    peer: Literal["transformers", "ours", "none"] = arg(
        "none", "What to compare with; ours: the same decoder in fixed batches."
    )
    batch: int = arg(32, "Sequences decoded together.")
    lengths: Literal["full", "geometric"] = arg(
        "full", "geometric: responses end at random, after --mean_answer tokens on average."
    )
    mean_answer: int = arg(32, "Mean response length of --lengths geometric.")
    responses: int = arg(0, "Responses of a run; default: --batch, 4 x --batch if geometric.")

    @property
    def count(self) -> int:
        return self.responses or self.batch * (4 if self.lengths == "geometric" else 1)


def prepare_ours(args: RolloutBenchmarkArgs, fixed_batches: bool = False) -> Callable[[], float]:
    """Return a run of a rollout by the hybrid engine's scheduler, which reloads the weights."""
    import torch

    from training.hybrid_engine.engine import choose_decoder
    from training.hybrid_engine.sampling import SampleKey, Sampling, draw_uniforms
    from training.hybrid_engine.scheduler import Scheduler
    from training.runtime.engine import compute_dtype

    class FixedBatchScheduler(Scheduler):
        def _refill(self) -> bool:
            is_running = any(row is not None for row in self._rows)
            return not is_running and super()._refill()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lm = _load_model(args).to(device)
    vocabulary = get_vocabulary_size(args.size)
    sampling = Sampling(max_new_tokens=args.answer)
    decoder = choose_decoder(lm, compute_dtype(args.dtype, device))
    scheduler = (FixedBatchScheduler if fixed_batches else Scheduler)(
        decoder,
        sampling,
        slots=args.batch,
        eos_id=vocabulary - 1 if args.lengths == "geometric" else -1,
        pad_id=vocabulary,
        device=device,
    )
    prompts = make_rows([args.prompt] * args.count, vocabulary, seed=1)
    keys = [SampleKey(0, 1, row, 0) for row in range(args.count)]

    def run() -> float:
        decoder.load(lm)
        responses = scheduler.run(prompts, draw_uniforms(keys, args.answer))
        decoder.release()
        return float(responses.mask.sum())

    return run


def prepare_fixed_batches(args: RolloutBenchmarkArgs) -> Callable[[], float]:
    """Return a run without continuous batching: each batch runs until its last row has ended."""
    return prepare_ours(args, fixed_batches=True)


def prepare_transformers(args: RolloutBenchmarkArgs) -> Callable[[], float]:
    """Return a run of the library's sampling, batch after batch."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lm = _load_model(args).to(device).eval()
    if args.peer_dtype == "bf16":
        lm = lm.to(torch.bfloat16)
    vocabulary = get_vocabulary_size(args.size)
    prompts = torch.tensor(make_rows([args.prompt] * args.count, vocabulary, seed=1))
    is_full = args.lengths == "full"
    eos = {"eos_token_id": None if is_full else vocabulary - 1}

    def run() -> float:
        torch.manual_seed(0)
        total = 0.0
        for batch in torch.split(prompts.to(device), args.batch):
            tokens = lm.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                do_sample=True,
                top_k=0,
                max_new_tokens=args.answer,
                pad_token_id=vocabulary,
                use_cache=True,
                **eos,
            )[:, args.prompt :]
            total += float((tokens != vocabulary).sum())
        return total

    return run


def _load_model(args: RolloutBenchmarkArgs) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        path, _ = write_models(args.size, args.prompt + args.answer + 8, Path(folder))
        lm = AutoModelForCausalLM.from_pretrained(path)
    if args.lengths == "geometric":
        _set_stop_probability(lm, 1.0 / args.mean_answer)
    return lm


def _set_stop_probability(lm: Any, probability: float) -> None:
    """Give EOS about this probability everywhere: its embedding is along the final norm's bias."""
    import torch

    vocabulary = lm.config.vocab_size - 1
    with torch.no_grad():
        direction = torch.zeros(lm.config.n_embd)
        direction[0] = 40.0
        lm.transformer.ln_f.bias.copy_(direction)
        lm.transformer.wte.weight[:, 0] = 0.0
        spread = lm.transformer.wte.weight.std() ** 2 * lm.config.n_embd / 2
        others = torch.log(torch.tensor(vocabulary - 1.0)) + spread
        odds = torch.log(torch.tensor(probability / (1.0 - probability)))
        lm.transformer.wte.weight[vocabulary - 1] = 0.0
        lm.transformer.wte.weight[vocabulary - 1, 0] = (others + odds) / 40.0


def estimate_least_seconds(args: RolloutBenchmarkArgs, machine: Machine) -> float:
    """Estimate the roofline of full-length rollouts: prefill, then weights and cache per step."""
    shape, itemsize = make_shape(args.size), choose_dtype(args).itemsize
    prompts, answers = [args.prompt] * args.count, [args.answer] * args.count
    read, flops = shape.count_decoding(prompts, answers, slots=args.batch, itemsize=itemsize)
    prefill = machine.seconds(
        flops=shape.count_forward_flops(prompts, args.count),
        bytes_read=shape.active_parameters * itemsize,
    )
    return prefill + machine.seconds(bytes_read=read, flops=flops)


def main() -> None:
    args = parse_args(RolloutBenchmarkArgs)
    peers = {"transformers": prepare_transformers, "ours": prepare_fixed_batches, "none": None}
    is_full = args.lengths == "full"
    compare(
        args,
        ours=prepare_ours,
        peer=peers[args.peer],
        unit="new tokens",
        least_seconds=partial(estimate_least_seconds, args) if is_full else None,
    )


if __name__ == "__main__":
    main()

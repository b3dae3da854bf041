"""Memory, communication and time of the stages on 1 to 1024 GPUs, on paper: benchmarks/scaling.md.

python -m benchmarks.scaling --output benchmarks/scaling.md

Nothing is run. Memory and bytes sent are those of the dry run (training/runtime/memory_estimate.py
and communication_estimate.py); time is work over the rates of the flags.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.scaling_words import FINDINGS, INTRODUCTION
from training.arguments.common import check_can_write, check_positive, check_share
from training.arguments.parsing import arg, parse_args, require
from training.arguments.ppo import PPOArgs
from training.arguments.sft import SFTArgs
from training.models.work import ADAM_BYTES, TRAINING, ModelShape
from training.runtime.memory_inputs import ModelSize, Setting, Work, gpt2_size
from training.runtime.roofline import Machine
from training.trainers.stage_communication import ppo_volume, training_volume
from training.trainers.stage_memory import ppo_estimate, reward_estimate, sft_estimate

GB = 1e9
GPUS = (1, 2, 8, 64, 256, 1024)
STAGES = (0, 1, 2, 3)
BF16 = 2

LLAMA_7B = ModelSize(  # Touvron et al. 2023, arXiv:2307.09288
    layers=32,
    width=4096,
    inner=11008,
    heads=32,
    key_width=4096,
    vocabulary=32000,
    parameters=6_738_415_616,
    matrices=32 * (4 * 4096**2 + 3 * 4096 * 11008),
    trained=6_738_415_616,
    is_gpt2=False,
    is_gated=True,
    small=(2 * 32 + 1) * 4096,
)
MODELS = {
    "small": gpt2_size(12, 768, 12, 50257, 1024),
    "medium": gpt2_size(24, 1024, 16, 50257, 1024),
    "large": gpt2_size(36, 1280, 20, 50257, 1024),
    "xl": gpt2_size(48, 1600, 25, 50257, 1024),
    "7B": LLAMA_7B,
}


@dataclass(frozen=True, kw_only=True)
class ScalingArgs:
    """The work of a step, and the hardware; by default an H100 SXM host with a NIC a GPU."""

    output: str = arg("", "File for the report; without, it is printed.")
    responses: int = arg(1024, "Sequences of a step of each stage, over all GPUs.")
    prompt: int = arg(256, "Tokens of a prompt.")
    response: int = arg(256, "Tokens of a response.")
    ppo_epochs: int = arg(2, "Optimizer steps of a PPO step, each on all its responses.")
    micro_batch_tokens: int = arg(8192, "--micro_batch_tokens of the stages.")
    generation_batch_size: int = arg(64, "--generation_batch_size of stage 3.")
    gradient_checkpointing: bool = arg(True, "--gradient_checkpointing of the stages.")
    gpu_gb: float = arg(80.0, "Memory of a GPU, GB.")
    gpus_per_host: int = arg(8, "GPUs that the fast links join.")
    peak_tflops: float = arg(989.0, "bf16 products at best, TFLOP/s, dense.")
    hbm_tb_s: float = arg(3.35, "Memory bandwidth, TB/s.")
    link_gb_s: float = arg(450.0, "What a GPU sends within its host at best, GB/s.")
    network_gb_s: float = arg(50.0, "What a GPU sends to other hosts at best, GB/s.")
    compute_share: float = arg(0.4, "Of the peak that training and scoring reach.")
    memory_share: float = arg(0.6, "Of the memory bandwidth that decoding reaches.")
    network_share: float = arg(0.7, "Of the links' and the network's rates that rings reach.")

    def __post_init__(self) -> None:
        shares = ("compute_share", "memory_share", "network_share")
        for name in vars(self):
            if name not in ("output", "gradient_checkpointing"):
                check_positive(self, name)
        for name in shares:
            check_share(self, name)
        row = self.prompt + self.response
        require(
            row <= self.micro_batch_tokens,
            f"--micro_batch_tokens {self.micro_batch_tokens} holds no sequence of --prompt "
            f"{self.prompt} and --response {self.response} tokens",
        )
        if self.output:
            check_can_write(self, "output", is_file=True)

    @property
    def ppo(self) -> PPOArgs:
        """The flags of stage 3."""
        return PPOArgs(
            rollout_batch_size=self.responses,
            minibatch_size=self.responses,
            ppo_epochs=self.ppo_epochs,
            max_new_tokens=self.response,
            max_prompt_length=self.prompt,
            micro_batch_tokens=self.micro_batch_tokens,
            generation_batch_size=self.generation_batch_size,
        )


@dataclass(frozen=True)
class Need:
    """What a rank has in memory at most, and what it sends in a step; bytes."""

    memory: float
    sent: float


def setting_of(args: ScalingArgs, stage: int, gpus: int) -> Setting:
    return Setting(
        zero_stage=stage,
        ranks=gpus,
        itemsize=BF16,
        whole_blocks=False,
        device="cuda",
        gradient_checkpointing=args.gradient_checkpointing,
    )


def scorer(lm: ModelSize) -> ModelSize:
    """The reward model and critic on this backbone: a head of one number in the LM head's place."""
    head = 0 if lm.tied else lm.vocabulary * lm.width
    count = lm.parameters - head + lm.width
    return replace(lm, parameters=count, trained=count, small=lm.small + lm.width, tied=0)


def work_of(args: ScalingArgs, gpus: int) -> Work:
    """The micro-batches of stages 1 and 2."""
    row = args.prompt + args.response
    share = -(-args.responses // gpus)
    rows = min(share, args.micro_batch_tokens // row)
    return Work(rows * row, row, rows * args.response, -(-share // rows))


def sft_need(args: ScalingArgs, lm: ModelSize, setting: Setting) -> Need:
    work = work_of(args, setting.ranks)
    flags = SFTArgs(max_length=args.prompt + args.response)
    sent = training_volume(lm, setting, work)
    return Need(sft_estimate(flags, lm, setting, work).total(setting), sum(sent.values()))


def reward_need(args: ScalingArgs, lm: ModelSize, setting: Setting) -> Need:
    work, model = work_of(args, setting.ranks), scorer(lm)
    sent = training_volume(model, setting, work)
    return Need(reward_estimate(model, setting, work).total(setting), sum(sent.values()))


def ppo_need(args: ScalingArgs, lm: ModelSize, setting: Setting) -> Need:
    flags, critic = args.ppo, scorer(lm)
    sent = ppo_volume(flags, lm, critic, setting, prompts=[args.prompt])
    memory = ppo_estimate(flags, lm, critic, setting, args.prompt).total(setting)
    return Need(memory, sum(sent.values()))


def seconds(args: ScalingArgs, lm: ModelSize, setting: Setting, sent: float) -> dict[str, float]:
    """The phases of a PPO step, one after the other as they are, from work over rates."""
    shape = ModelShape(lm.layers, lm.width, lm.key_width, lm.matrices, lm.vocabulary)
    matrix_rate = args.peak_tflops * 1e12 * args.compute_share
    machine = Machine(args.hbm_tb_s * 1e12 * args.memory_share, matrix_rate)
    ranks, flags = setting.ranks, args.ppo
    share = -(-args.responses // ranks)
    prompts, responses = [args.prompt] * share, [args.response] * share
    lengths, targets = [args.prompt + args.response] * share, args.response * share
    head, trunk = shape.forward_flops(lengths, targets), shape.forward_flops(lengths, 0)
    read, flops = shape.decoding(
        prompts, responses, slots=args.generation_batch_size, itemsize=BF16
    )
    prefill = machine.seconds(flops=shape.forward_flops(prompts, share))
    # The actor and the frozen ref have an LM head, the critic and the reward model have none.
    scored = head + trunk + trunk * (not flags.reads_values_in_update)
    passes = TRAINING + args.gradient_checkpointing  # one more forward
    adam = 2.0 * args.ppo_epochs * ADAM_BYTES * lm.parameters
    stepped = machine.seconds(bytes_read=adam / (ranks if setting.zero_stage else 1))
    is_one_host = ranks <= args.gpus_per_host
    rate = (args.link_gb_s if is_one_host else args.network_gb_s) * GB * args.network_share
    return {
        "generation": prefill + machine.seconds(bytes_read=read, flops=flops),
        "scoring": machine.seconds(flops=scored),
        "update": machine.seconds(flops=passes * args.ppo_epochs * (head + trunk)) + stepped,
        "communication": sent / rate,
    }


def need_table(args: ScalingArgs, need: Callable[..., Need]) -> Iterator[str]:
    """A line a model and ZeRO stage; cells are `memory / sent` in GB."""
    yield from _head(["model", "ZeRO", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)])
    for name, lm in MODELS.items():
        for stage in STAGES:
            found = [need(args, lm, setting_of(args, stage, gpus)) for gpus in GPUS]
            cells = [f"{_memory(args, n.memory)} / {_number(n.sent / GB)}" for n in found]
            yield _row([name if stage == 0 else "", str(stage), *cells])


def time_table(args: ScalingArgs) -> Iterator[str]:
    """A line a model and number of GPUs, under the ZeRO stage that is fastest of those that fit."""
    phases = ["generation", "scoring", "update", "communication"]
    yield from _head(["model", "GPUs", "ZeRO", *(f"{p}, s" for p in phases), "step, s", "bound by"])
    for name, lm in MODELS.items():
        for gpus in GPUS:
            fitting = []
            for stage in STAGES:
                setting = setting_of(args, stage, gpus)
                need = ppo_need(args, lm, setting)
                if need.memory <= args.gpu_gb * GB:
                    fitting.append((stage, seconds(args, lm, setting, need.sent)))
            first = [name if gpus == GPUS[0] else "", str(gpus)]
            if not fitting:
                yield _row([*first, "none fits", *[""] * 6])
                continue
            stage, parts = min(fitting, key=lambda pair: sum(pair[1].values()))
            cells = [_number(parts[phase]) for phase in phases]
            bound = max(phases, key=parts.__getitem__)
            total = _number(sum(parts.values()))
            yield _row([*first, str(stage), *cells, total, bound])


def report(args: ScalingArgs) -> str:
    """The whole of scaling.md."""
    values = {**vars(args), "row": args.prompt + args.response}
    parts = [INTRODUCTION.format(**values)]
    needs = {"PPO": ppo_need, "SFT": sft_need, "Reward model": reward_need}
    for title, need in needs.items():
        parts += [f"## {title}: memory of a rank / bytes it sends in a step, GB, calculated\n"]
        parts += ["\n".join(need_table(args, need)) + "\n"]
    parts += ["## What bounds a PPO step, calculated\n", "\n".join(time_table(args)) + "\n"]
    return "\n".join([*parts, FINDINGS])


def _head(names: list[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: list[str]) -> str:
    return "".join(f"| {cell} " for cell in cells) + "|"


def _memory(args: ScalingArgs, size: float) -> str:
    text = _number(size / GB)
    return text if size <= args.gpu_gb * GB else f"({text})"


def _number(value: float) -> str:
    """Two digits that count, or all before the point."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def main() -> None:
    args = parse_args(ScalingArgs)
    text = report(args)
    if args.output:
        Path(args.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

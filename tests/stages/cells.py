"""The runs of test_matrix.py. support.py makes the table of supported settings from them."""

from dataclasses import dataclass

from tests.stages.pairs import cover_pairs
from training.models.lm_head import LOGIT_CHUNK

STEPS = 10
STAGES = ("sft", "reward", "ppo")
ZERO = (0, 1, 2, 3)
SMALL = 96  # tokens of a micro-batch: about four sequences, so a step has several, ragged ones
LORA = ("--lora_rank", "4", "--lora_alpha", "16")
OFFLOAD = ("--offload_optimizer", "true")
OFFLOAD_ALL = (*OFFLOAD, "--offload_param", "true")
OFFLOADS = (("offload2", 2, OFFLOAD), ("offload3", 3, OFFLOAD), ("offload-all", 3, OFFLOAD_ALL))
CHECKPOINTING = ("--gradient_checkpointing", "true")
ALWAYS_RUN = {  # tests name these
    *(f"{stage}-{end}" for stage in STAGES for end in ("whole-1", "lora1-1", "own-2")),
    *("sft-start-1", "sft-worse-1", "sft-zero2-1", "sft-zero2-2", "sft-checkpointing-2"),
    *("reward-zero1-1", "reward-zero3-2", "reward-packed2-2"),
    *("ppo-chunks-1", "ppo-few-2", "ppo-shared-zero2-2"),
}


@dataclass(frozen=True)
class Cell:
    """One run. `like` names the run whose curve it must show, if any."""

    name: str
    stage: str
    ranks: int
    zero: int = 0
    steps: int = STEPS
    like: str = ""
    tokens: int = SMALL
    flags: tuple[str, ...] = ()
    reward: str = "reward-whole"  # what a PPO run learns from
    tolerance: float = 1e-5
    dtype: str = "fp32"
    logit_chunk: int = LOGIT_CHUNK

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.ranks}"

    @property
    def settings(self) -> set[str]:
        """Values of which each two occur together in `default_cells`."""
        flags = zip(self.flags[::2], self.flags[1::2], strict=True)
        settings = {self.stage, f"{self.ranks} ranks", f"ZeRO {self.zero}", self.dtype}
        settings |= {f"{flag} {value}" for flag, value in flags}
        if self.stage == "ppo":
            settings.add(f"learns from {self.reward}")
        return settings | ({"small chunks"} if self.logit_chunk != LOGIT_CHUNK else set())


def all_cells() -> list[Cell]:
    apart = {stage: ("--packing", "never") if stage != "ppo" else () for stage in STAGES}
    whole = [
        Cell(f"{stage}-whole", stage, 1, tokens=100_000, flags=apart[stage]) for stage in STAGES
    ]
    grid = [
        Cell(f"{stage}-zero{zero}", stage, ranks, zero, like=f"{stage}-whole")
        for ranks in (1, 2)
        for stage in STAGES
        for zero in ZERO
    ]
    own = ("--deepspeed_config", "own.json", *CHECKPOINTING)
    shared = ("--critic", "shared")
    new = ("--init_from_scratch", "config.json", "--tokenizer_name_or_path", "BASE")
    worse = ("--eval_every", "1", "--learning_rate", "0.5", "--warmup_ratio", "1")  # ever faster
    always = ("--packing", "always")
    packed = [
        Cell(f"{stage}-packed{zero}", stage, 2, zero, like=f"{stage}-whole", flags=always)
        for stage in ("sft", "reward")
        for zero in (2, 3)
    ]
    offloaded = [
        Cell(f"{stage}-{name}", stage, 2, zero, like=f"{stage}-whole", flags=flags)
        for name, zero, flags in OFFLOADS
        for stage in STAGES
    ]
    muon = ("--optimizer", "muon")
    rest = [
        Cell("sft-own", "sft", 2, 3, like="sft-whole", flags=own),
        Cell("reward-own", "reward", 2, 3, like="reward-whole", flags=own),
        Cell("ppo-own", "ppo", 2, 3, like="ppo-whole", flags=own),
        # Ranks have unequally many response tokens: a chunk of the head must not be a collective.
        Cell("ppo-chunks", "ppo", 2, 3, like="ppo-whole", logit_chunk=4000),
        Cell("ppo-chunks", "ppo", 1, 0, like="ppo-whole", logit_chunk=4000),
        Cell("ppo-shared", "ppo", 1, 0, flags=shared),
        Cell("ppo-shared-zero2", "ppo", 2, 2, like="ppo-shared", flags=shared),
        Cell("ppo-shared-zero3", "ppo", 2, 3, like="ppo-shared", flags=shared),
        Cell("sft-checkpointing", "sft", 2, 2, like="sft-whole", flags=CHECKPOINTING),
        Cell("sft-muon1", "sft", 1, flags=muon),
        Cell("sft-muon2", "sft", 2, like="sft-muon1", flags=muon, tolerance=1e-3),
        Cell("scratch-zero0", "sft", 1, 0, 2, flags=new),
        Cell("scratch-zero3", "sft", 2, 3, 2, like="scratch-zero0", flags=new),
        Cell("reward-mlp", "reward", 2, 3, 2, flags=("--head", "mlp", "--pooling", "mean")),
        Cell("ppo-mlp", "ppo", 2, 3, 2, reward="reward-mlp"),
        Cell("ppo-few", "ppo", 2, 0, 1, flags=("--eval_data_path", "one.jsonl")),
        Cell("sft-worse", "sft", 1, 0, 4, flags=worse),
    ]
    start = Cell("sft-start", "sft", 1, flags=("--dropout", "-1"))  # its saved config keeps 0.1
    return [start, *whole, *grid, *packed, *offloaded, *_in_bf16(), *_with_lora(), *rest]


def default_cells() -> list[Cell]:
    """The runs made without --all: each two settings of any run occur together in one of them.

    So do each two settings of a run in fp32, whose curves are compared more closely than bf16's.
    """
    cells = all_cells()
    fp32 = [cell for cell in cells if cell.dtype == "fp32"]
    first = [cell for cell in cells if cell.folder in ALWAYS_RUN]
    chosen = cover_pairs(fp32, lambda cell: cell.settings, first)
    chosen = cover_pairs(cells, lambda cell: cell.settings, chosen)
    needed = {name for cell in chosen for name in (cell.like, cell.reward)}
    return [cell for cell in cells if cell in chosen or cell.name in needed]


def _in_bf16() -> list[Cell]:
    layouts = [
        (1, "bf16-0", 0, ()), *((2, f"bf16-{zero}", zero, ()) for zero in ZERO),
        *((2, f"bf16-{name}", zero, flags) for name, zero, flags in OFFLOADS),
    ]  # fmt: skip
    return [
        Cell(f"{stage}-{name}", stage, ranks, zero, like=f"{stage}-whole", flags=flags,
             dtype="bf16")
        for ranks, name, zero, flags in layouts
        for stage in STAGES
    ]  # fmt: skip


def _with_lora() -> list[Cell]:
    alone = [Cell(f"{stage}-lora1", stage, 1, flags=LORA) for stage in STAGES]
    layouts = [
        *((f"lora{zero}of2", zero, ()) for zero in ZERO),
        *((f"lora-{name}", zero, flags) for name, zero, flags in OFFLOADS),
    ]
    return alone + [
        Cell(f"{stage}-{name}", stage, 2, zero, like=f"{stage}-lora1", flags=(*flags, *LORA))
        for name, zero, flags in layouts
        for stage in STAGES
    ]

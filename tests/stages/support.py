"""The table of supported combinations, from the cells of the matrix and the flags' refusals.

python -m tests.stages.support     writes the table into docs/support.md
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

from tests.stages.cells import CHECKPOINTING, LORA, OFFLOAD, OFFLOAD_ALL, STAGES, ZERO, all_cells
from training.arguments.common import CommonArgs
from training.arguments.parsing import parse_args
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs

FILE = Path(__file__).resolve().parents[2] / "docs" / "support.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->\n"
ARGS: dict[str, type[CommonArgs]] = {"sft": SFTArgs, "reward": RewardArgs, "ppo": PPOArgs}
TITLES = {"sft": "stage 1", "reward": "stage 2", "ppo": "stage 3"}
OFFLOADS = {"": (), "optimizer": OFFLOAD, "optimizer, weights": OFFLOAD_ALL}
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fp32": ("fp32", ()), "bf16": ("bf16", ()), "LoRA": ("fp32", LORA),
}  # fmt: skip
MUON = ("--optimizer", "muon")


def refusal(stage: str, zero: int, flags: tuple[str, ...]) -> str:
    """The stage's error for these flags before anything is loaded; "" where it accepts them."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            parse_args(ARGS[stage], ["--zero_stage", str(zero), *flags])
    except SystemExit:
        return printed.getvalue().partition("error: ")[2].partition(", got")[0]
    return ""


def in_matrix(stage: str, zero: int, flags: tuple[str, ...], dtype: str) -> str:
    """The numbers of ranks on which the matrix runs it, with no flags but these."""
    ranks = {
        cell.ranks
        for cell in all_cells()
        if (cell.stage, cell.zero, cell.flags, cell.dtype) == (stage, zero, flags, dtype)
    }
    return ", ".join(map(str, sorted(ranks)))


def entry(stage: str, zero: int, flags: tuple[str, ...], dtype: str) -> str:
    if refusal(stage, zero, flags):
        return "no"
    return in_matrix(stage, zero, flags, dtype) or "untested"


def rows() -> Iterator[list[str]]:
    """Rows of the table: ZeRO stage, offload, then an entry per kind and stage."""
    for zero in ZERO:
        for offload, offload_flags in OFFLOADS.items():
            if all(refusal(stage, zero, offload_flags) for stage in STAGES):
                continue  # it is in the list of refusals
            row = [str(zero), offload or "nothing"]
            for dtype, kind_flags in KINDS.values():
                flags = (*offload_flags, *kind_flags)
                row += [entry(stage, zero, flags, dtype) for stage in STAGES]
            yield row


def refusals() -> list[str]:
    """Each error message of the refused combinations, once."""
    found = {
        refusal(stage, zero, flags): None
        for stage in STAGES
        for flags in (OFFLOAD, OFFLOAD_ALL, LORA, *([MUON] if stage == "sft" else []))
        for zero in ZERO
    }
    return [text for text in found if text]


def table() -> str:
    """The text of docs/support.md between the markers."""
    head = ["ZeRO", "offloaded"]
    head += [f"{TITLES[stage]} {kind}" for kind in KINDS for stage in STAGES]
    lines = [head, ["---"] * len(head), *rows()]
    checkpointing = {
        f"{TITLES[stage]} ZeRO {zero}": None
        for stage in STAGES
        for zero in ZERO
        for cell in all_cells()
        if CHECKPOINTING[0] in cell.flags and (cell.stage, cell.zero) == (stage, zero)
    }
    return (
        "Made by `python -m tests.stages.support`. A number is the number of ranks on which the "
        "matrix test runs the combination,\nwith gradients accumulated over micro-batches. "
        "Untested: accepted, but not in the matrix. No: refused with one line.\nTolerances: in "
        "fp32, curves agree within 1e-5 with those of one rank without ZeRO; in bf16, losses of "
        "stages 1 and 2\nagree within 0.01 with fp32. The matrix also runs "
        "`--gradient_checkpointing` with "
        f"{', '.join(checkpointing)}.\n\n"
        + "".join(f"| {' | '.join(line)} |\n" for line in lines)
        + "\nRefused:\n\n"
        + "".join(f"- `{text}`\n" for text in refusals())
    )


def parts(text: str) -> tuple[str, str, str]:
    """Split docs/support.md into the text before the table, the table, and the text after it."""
    before, _, rest = text.partition(BEGIN)
    middle, _, after = rest.partition(END)
    return before, middle, after


def main() -> None:
    before, _, after = parts(FILE.read_text(encoding="utf-8"))
    FILE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

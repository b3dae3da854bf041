"""docs/support.md agrees with the matrix and with what the flags refuse."""

from tests.stages.cells import LORA
from tests.stages.support import FILE, in_matrix, parts, refusal, refusals, rows, table


def test_the_table_in_the_docs_is_the_generated_one():
    _, committed, _ = parts(FILE.read_text(encoding="utf-8"))
    assert committed == table(), "run python -m tests.stages.support"


def test_what_flags_refuse_is_no_and_what_the_matrix_runs_has_its_ranks():
    offload, muon = ("--offload_optimizer", "true"), ("--optimizer", "muon")
    assert refusal("sft", 1, offload) == "--offload_optimizer needs --zero_stage 2 or 3"
    assert refusal("sft", 2, offload) == ""
    assert refusal("sft", 1, muon).startswith("--optimizer muon needs whole matrices")
    assert in_matrix("ppo", 3, (), "fp32") == "1, 2"
    assert in_matrix("reward", 3, LORA, "fp32") == "2"
    assert in_matrix("reward", 3, muon, "fp32") == ""


def test_it_has_each_stage_once_and_with_what_can_be_offloaded():
    assert [row[:2] for row in rows()] == [
        ["0", "nothing"], ["1", "nothing"], ["2", "nothing"], ["2", "optimizer"],
        ["3", "nothing"], ["3", "optimizer"], ["3", "optimizer, weights"],
    ]  # fmt: skip
    assert len(refusals()) == 3

"""Which models get rows of several sequences, and at what price."""

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig

from tests.tiny_models import CPU, build_tokenizer, gpt2, write_lm
from training.arguments.parsing import UserError
from training.arguments.sft import SFTArgs
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import can_read_blocks, load_causal_lm
from training.trainers.row_rules import row_rules


@pytest.fixture
def lm(tmp_path):
    path = write_lm(tmp_path, gpt2(len(build_tokenizer())))
    return lambda dropout: load_causal_lm(path, build_tokenizer(), device=CPU, dropout=dropout)


def rules(lm, packing="auto"):
    return row_rules(SFTArgs(packing=packing), lm, longest_row=64)


def test_only_models_that_attend_to_whole_sequences_read_blocks():
    assert can_read_blocks(GPT2Config())
    assert can_read_blocks(LlamaConfig())
    assert not can_read_blocks(MistralConfig(sliding_window=8))


def test_another_model_keeps_rows_apart_and_is_refused_where_packing_is_demanded(lm):
    other = lm(0.0)
    other.config.layer_types = ["sliding_attention", "full_attention"]
    assert rules(other).packing == "never"
    with pytest.raises(UserError, match="--packing always: a gpt2 model"):
        rules(other, "always")


def test_padding_costs_nothing_where_our_blocks_are_at_work(lm):
    plain, ours, dropping = lm(0.0), lm(0.0), lm(0.1)
    use_cpu_blocks(ours)
    use_cpu_blocks(dropping)
    assert [rules(each).padding_cost for each in (plain, ours, dropping)] == [1.0, 0.0, 1.0]

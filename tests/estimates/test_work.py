import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_models import gpt2
from training.estimates.work import ModelShape, shape_of

SHAPE = ModelShape(layers=2, width=4, key_width=4, body=100, vocabulary=10)


def test_gpt2s_shape_is_counted_by_hand():
    lm = gpt2(50, seed=0)
    config = lm.config
    width = config.n_embd
    matrices = config.n_layer * (3 * width**2 + width**2 + 2 * 4 * width**2)
    assert shape_of(lm) == ModelShape(config.n_layer, width, width, matrices, config.vocab_size)
    assert shape_of(lm.transformer) == shape_of(lm)


def test_a_models_own_head_is_no_part_of_its_blocks_and_shared_keys_are_narrower():
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    expected = ModelShape(1, 16, 8, attention + 3 * 16 * 24, 30)
    assert shape_of(LlamaForCausalLM(config)) == expected


def test_a_forward_is_two_flop_a_parameter_and_token_and_attention_over_half_of_each_sequence():
    by_hand = (3 + 5) * 2.0 * 100  # matrices of the blocks
    by_hand += 2 * 2 * 2 * 4 * (3 * 1.5 + 5 * 2.5)  # layers x (scores, values) x 2 x width x met
    by_hand += 2 * 2 * 10 * 4  # the head at two positions
    assert SHAPE.forward_flops([3, 5], targets=2) == by_hand


def test_a_forwards_flop_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    lm = gpt2(50, seed=0)
    tokens = torch.zeros(2, 12, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=tokens)
    shape = shape_of(lm)
    masked = 2.0 * shape.layers * shape.width * 12 * 24  # torch multiplies the hidden half too
    expected = shape.forward_flops([12, 12], targets=24) + masked
    assert counter.get_total_flops() == pytest.approx(expected)


def test_decoding_reads_weights_once_a_step_and_each_rows_cache():
    # Two rows at a time: 4 + 2 tokens, the first of each from prefill.
    read, flops = SHAPE.decoding([3, 6], [4, 2], slots=2, itemsize=2)
    contexts = (4 + 5 + 6) + 7
    assert read == 3 * 140 * 2 + contexts * 2 * 2 * 4 * 2
    assert flops == 4 * 2 * 140 + contexts * 4 * 2 * 4


def test_fewer_slots_take_more_steps():
    full, _ = SHAPE.decoding([3] * 8, [4] * 8, slots=8, itemsize=1)
    half, _ = SHAPE.decoding([3] * 8, [4] * 8, slots=4, itemsize=1)
    assert half - full == 4 * 140

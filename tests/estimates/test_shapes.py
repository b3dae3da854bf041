import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.tiny_models import gpt2
from training.estimates.shapes import ModelShape, read_shape

SHAPE = ModelShape(
    layers=2,
    width=4,
    inner=16,
    heads=1,
    key_width=4,
    vocabulary=10,
    parameters=200,
    matrices=100,
    trained=200,
)


def test_the_shape_read_from_a_gpt2_is_the_one_computed_from_its_sizes():
    lm = gpt2(50, seed=0, n_layer=3, n_embd=16, n_head=4, n_positions=48)
    matrices = 3 * 12 * 16**2
    parameters = matrices + 3 * 13 * 16 + 2 * 16 + (50 + 48) * 16  # biases, norms, embeddings
    assert read_shape(lm) == ModelShape(
        layers=3,
        width=16,
        inner=4 * 16,
        heads=4,
        key_width=16,
        vocabulary=50,
        parameters=parameters,
        matrices=matrices,
        trained=parameters,
    )
    assert read_shape(lm.transformer) == read_shape(lm)


def test_gpt2_shapes_have_as_many_parameters_as_the_published_models():
    published = {
        (12, 768, 12): 124_439_808,
        (24, 1024, 16): 354_823_168,
        (36, 1280, 20): 774_030_080,
        (48, 1600, 25): 1_557_611_200,
    }
    for (layers, width, heads), count in published.items():
        config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads)
        with torch.device("meta"):
            assert read_shape(GPT2LMHeadModel(config)).parameters == count


def test_matrices_exclude_an_untied_head_and_shared_keys_are_narrower():
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    matrices = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24
    parameters = matrices + 2 * 30 * 16 + 3 * 16  # embedding, head and three norms
    shape = read_shape(LlamaForCausalLM(config), extra=16)
    assert (shape.matrices, shape.key_width, shape.inner) == (matrices, 8, 24)
    assert shape.parameters == shape.trained == parameters + 16
    assert shape.is_gated
    assert not shape.is_gpt2


def test_frozen_parameters_are_not_counted_as_trained():
    lm = gpt2(50, seed=0)
    lm.transformer.wpe.weight.requires_grad_(False)
    shape = read_shape(lm)
    assert shape.parameters - shape.trained == lm.transformer.wpe.weight.numel()


def test_a_forward_takes_two_flop_per_matrix_entry_and_token_and_attends_to_half_of_each_sequence():
    by_hand = (3 + 5) * 2.0 * 100  # matrices of the blocks
    by_hand += 2 * 2 * 2 * 4 * (3 * 1.5 + 5 * 2.5)  # layers x (scores, values) x 2 x width x read
    by_hand += 2 * 2 * 10 * 4  # the head at two positions
    assert SHAPE.count_forward_flops([3, 5], targets=2) == by_hand


def test_the_flop_of_a_forward_equal_torchs_count():
    from torch.utils.flop_counter import FlopCounterMode

    lm = gpt2(50, seed=0)
    tokens = torch.zeros(2, 12, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=tokens)
    shape = read_shape(lm)
    masked = 2.0 * shape.layers * shape.width * 12 * 24  # torch multiplies the hidden half too
    expected = shape.count_forward_flops([12, 12], targets=24) + masked
    assert counter.get_total_flops() == pytest.approx(expected)


def test_decoding_reads_the_weights_once_per_step_and_the_cache_of_each_row():
    # Two rows at a time: 4 + 2 tokens, the first of each from prefill.
    read, flops = SHAPE.count_decoding([3, 6], [4, 2], slots=2, itemsize=2)
    contexts = (4 + 5 + 6) + 7
    assert read == 3 * 140 * 2 + contexts * 2 * 2 * 4 * 2
    assert flops == 4 * 2 * 140 + contexts * 4 * 2 * 4


def test_fewer_slots_take_more_steps():
    full, _ = SHAPE.count_decoding([3] * 8, [4] * 8, slots=8, itemsize=1)
    half, _ = SHAPE.count_decoding([3] * 8, [4] * 8, slots=4, itemsize=1)
    assert half - full == 4 * 140

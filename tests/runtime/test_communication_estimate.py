"""Bytes sent, worked by hand; tests/stages/test_traffic.py counts those of two ranks."""

from dataclasses import replace

import pytest

from training.runtime import communication_estimate as communication
from training.runtime.memory_inputs import ModelSize, Setting, gpt2_size

# 1000 parameters: 60 in small tensors, 300 of an embedding that is the head too.
MODEL = ModelSize(2, 10, 40, 2, 10, 30, 1000, 600, 1000, small=60, tied=300)
FOUR = Setting(zero_stage=0, ranks=4, itemsize=2, whole_blocks=False)


def test_a_ring_of_four_sends_three_quarters_of_what_is_gathered():
    assert communication.all_gather(400, 4) == 300
    assert communication.reduce_scatter(400, 4) == 300
    assert communication.all_reduce(400, 4) == 600


@pytest.mark.parametrize(
    ("stage", "micro_batches", "gradients", "weights"),
    [
        (0, 1, 6000, None),  # 4000 bytes, scattered and gathered
        (0, 5, 6000, None),  # once a step
        (1, 5, 6000, 3000),
        (2, 1, 6000, 3000),
        (2, 5, 30000, 3000),  # in each micro-batch
        (3, 1, 3000, 3000),
        (3, 5, 15000, 5 * 2820 + 180),  # of the small ones 240 bytes once, of the others 3760
    ],
)
def test_an_optimizer_step(stage, micro_batches, gradients, weights):
    parts = communication.optimizer_step(MODEL, replace(FOUR, zero_stage=stage), micro_batches)
    assert parts["gradients"] == gradients
    assert parts.get("weights") == weights


def test_weights_far_from_their_second_use_are_gathered_again():
    three = replace(FOUR, zero_stage=3)
    # 940 there, and 940 less 400 whose way is shorter than 800 there and back.
    parts = communication.optimizer_step(MODEL, three, 1, reuse=800)
    assert parts["weights"] == 3 * (940 + 540) + 180
    parts = communication.optimizer_step(MODEL, three, 1, is_read=True)
    assert parts["weights"] == 3 * (940 + 940) + 180


def test_what_is_read_is_gathered_once_a_micro_batch_under_stage_3_alone():
    assert communication.reading(MODEL, replace(FOUR, zero_stage=2), 5) == 0
    assert communication.reading(MODEL, replace(FOUR, zero_stage=3), 5) == 5 * 3 * 940


def test_a_view_is_filled_under_stage_3_alone():
    assert communication.view(MODEL, replace(FOUR, zero_stage=2)) == 0
    assert communication.view(MODEL, replace(FOUR, zero_stage=3)) == 3 * (940 + 300)


def test_a_rollout_is_gathered_by_all():
    # Eight responses of 10 tokens to prompts of 5: 8 x (5 x 3 + 10 x 20 + 30), and four ranks'.
    assert communication.rollout(8, 5, 10, 4) == (8 * 245 + 4 * 2200) * 3 / 4


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_rank_sends_nothing(stage):
    alone = replace(FOUR, ranks=1, zero_stage=stage)
    assert not any(communication.optimizer_step(MODEL, alone, 3).values())
    assert communication.view(MODEL, alone) == communication.rollout(8, 5, 10, 1) == 0


def test_gpt2s_vectors_are_small_and_its_head_is_tied():
    size = gpt2_size(12, 768, 12, 50257, 1024)
    # Per block: two norms (4 x 768), biases of 3 + 1 + 4 + 1 = 9 x 768; and the last norm.
    assert size.small == 12 * 13 * 768 + 2 * 768
    assert size.tied == 50257 * 768

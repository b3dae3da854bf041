import math
from itertools import combinations

import pytest
import torch
from torch.testing import assert_close

from tests.worked import EXACT, worked
from training.objectives.reward import (
    comparison_loss,
    compute_normalization,
    pair_accuracy,
    pairwise_losses,
)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def losses(chosen, rejected, *, labels=None, margins=None, label_smoothing=0.0):
    return pairwise_losses(
        chosen,
        rejected,
        torch.ones_like(chosen) if labels is None else labels,
        torch.zeros_like(chosen) if margins is None else margins,
        label_smoothing=label_smoothing,
    )


def loss_of(scores, pairs, *, labels=None, weights=None, center_coef=0.0, weight_sum=None):
    """`comparison_loss` over (chosen, rejected) index pairs."""
    count = len(pairs)
    weights = doubles(*[1.0] * count) if weights is None else weights
    return comparison_loss(
        scores,
        torch.tensor([pair[0] for pair in pairs]),
        torch.tensor([pair[1] for pair in pairs]),
        doubles(*[1.0] * count) if labels is None else labels,
        weights,
        doubles(*[0.0] * count),
        label_smoothing=0.0,
        center_coef=center_coef,
        weight_sum=weights.sum().item() if weight_sum is None else weight_sum,
    )


def test_the_pairwise_loss_and_its_gradient_are_the_worked_numbers():
    inputs, expected = worked("pairwise_loss")
    chosen = inputs["chosen"].requires_grad_()
    rejected = inputs["rejected"].requires_grad_()
    found = losses(chosen, rejected)
    assert_close(found, expected["per_pair"], rtol=1e-8, atol=1e-30)
    assert found.mean().item() == pytest.approx(expected["mean"], rel=1e-8)
    found.mean().backward()
    assert_close(chosen.grad, expected["grad_chosen"], rtol=1e-8, atol=1e-30)
    assert_close(rejected.grad, expected["grad_rejected"], rtol=1e-8, atol=1e-30)


def test_a_margin_is_taken_from_the_difference():
    inputs, expected = worked("pairwise_loss")
    found = losses(inputs["chosen"], inputs["rejected"], margins=inputs["margin"])
    assert found.mean().item() == pytest.approx(expected["mean_with_margin"], rel=1e-8)


def test_a_tie_in_the_scores_is_wrong():
    inputs, expected = worked("pairwise_loss")
    chosen, rejected = inputs["chosen"], inputs["rejected"]
    correct, counted = pair_accuracy(chosen, rejected, torch.ones_like(chosen))
    assert correct / counted == expected["accuracy"]


def test_accuracy_goes_by_the_label_and_leaves_undecided_pairs_out():
    chosen, rejected = doubles(1, 1, 1, 0), doubles(0, 0, 0, 1)
    labels = doubles(1.0, 0.2, 0.5, 0.0)
    assert pair_accuracy(chosen, rejected, labels) == (2, 3)
    assert pair_accuracy(chosen[2:3], rejected[2:3], labels[2:3]) == (0, 0)


@pytest.mark.parametrize("label", [0.05, 0.3, 0.5, 0.8])
def test_a_soft_label_is_reached_where_the_model_says_that_probability(label):
    best = math.log(label / (1 - label))
    chosen = doubles(best).requires_grad_()
    loss = losses(chosen, doubles(0.0), labels=doubles(label))
    loss.sum().backward()
    entropy = -label * math.log(label) - (1 - label) * math.log(1 - label)
    assert_close(loss.detach(), doubles(entropy))
    assert_close(chosen.grad, doubles(0.0), rtol=0, atol=1e-12)
    for off in (-0.1, 0.1):
        assert losses(doubles(best + off), doubles(0.0), labels=doubles(label)) > loss


def test_turning_a_pair_round_changes_nothing_when_its_label_turns_too():
    a, b = doubles(0.3, -2.0), doubles(1.1, 0.4)
    labels, margins = doubles(0.9, 0.25), doubles(0.5, -1.0)
    turned = losses(b, a, labels=1 - labels, margins=-margins)
    assert_close(losses(a, b, labels=labels, margins=margins), turned)


def test_smoothing_pulls_the_label_towards_one_half():
    # By hand: labels 1 and 0 smoothed by 0.2 are 0.9 and 0.1; d = 2.
    chosen, rejected = doubles(2.0, 2.0), doubles(0.0, 0.0)
    found = losses(chosen, rejected, labels=doubles(1.0, 0.0), label_smoothing=0.2)
    right, wrong = math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.0))
    assert_close(found, doubles(0.9 * right + 0.1 * wrong, 0.1 * right + 0.9 * wrong))
    smoothed = losses(chosen, rejected, labels=doubles(0.9, 0.1))
    assert_close(found, smoothed)


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    scores = doubles(-1.0, 0.5, 3.0).requires_grad_()
    loss_of(scores, [(0, 1)]).backward()
    gradient = scores.grad
    assert gradient[0] < 0 < gradient[1]
    assert gradient[2] == 0


def test_all_pairs_of_one_prompt_by_hand():
    # Scores 2 > 1 > 0 in the right order: d = 1, 2, 1.
    pairs = list(combinations(range(3), 2))
    expected = (2 * math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 3
    assert loss_of(doubles(2.0, 1.0, 0.0), pairs).item() == pytest.approx(expected, rel=1e-12)


def test_a_response_in_many_pairs_gets_the_sum_of_their_gradients():
    scores = doubles(0.4, -0.2, 1.3).requires_grad_()
    pairs = list(combinations(range(3), 2))
    loss_of(scores, pairs).backward()
    apart = torch.zeros(3, dtype=torch.float64)
    for a, b in pairs:
        slope = -1 / (1 + math.exp(scores[a].item() - scores[b].item()))
        apart[a] += slope / 3
        apart[b] -= slope / 3
    assert_close(scores.grad, apart)


def test_weights_count_as_repetition():
    scores = doubles(0.4, -0.2, 1.3)
    repeated = loss_of(scores, [(0, 1), (0, 1), (0, 1), (1, 2)])
    assert_close(loss_of(scores, [(0, 1), (1, 2)], weights=doubles(3.0, 1.0)), repeated)


def test_any_split_of_the_pairs_adds_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    pairs = list(combinations(range(6), 2))
    weights = torch.rand(len(pairs), generator=generator, dtype=torch.float64)
    whole = loss_of(scores, pairs, weights=weights, center_coef=0.3)
    (gradient,) = torch.autograd.grad(whole, scores)
    total = weights.sum().item()
    parts = [
        loss_of(scores, pairs[a:b], weights=weights[a:b], center_coef=0.3, weight_sum=total)
        for a, b in [(0, 1), (1, 9), (9, 15)]
    ]
    assert_close(torch.stack(parts).sum(), whole)
    (parts_gradient,) = torch.autograd.grad(torch.stack(parts).sum(), scores)
    assert_close(parts_gradient, gradient)


def test_only_centering_notices_a_shift_of_all_scores():
    scores, pairs = doubles(0.4, -0.2, 1.3), [(0, 1), (2, 0)]
    assert_close(loss_of(scores + 5.0, pairs), loss_of(scores, pairs))
    # By hand: the mean scores of the two pairs are 0.1 and 0.85.
    added = loss_of(scores, pairs, center_coef=2.0) - loss_of(scores, pairs)
    assert added.item() == pytest.approx(2.0 * (0.1**2 + 0.85**2) / 2)


def test_far_apart_scores_neither_overflow_nor_lose_their_gradient():
    scores = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = losses(scores[:1], scores[1:])
    loss.sum().backward()
    assert_close(loss.detach(), torch.tensor([1000.0]))
    assert_close(scores.grad, torch.tensor([-1.0, 1.0]))


def test_normalised_scores_are_the_worked_numbers():
    inputs, expected = worked("reward_normalisation")
    mean, std = compute_normalization(inputs["scores"])
    assert 1 / std == pytest.approx(expected["gain"], rel=1e-8)
    assert -mean / std == pytest.approx(expected["bias"], rel=1e-8)
    assert_close((inputs["scores"] - mean) / std, expected["normalised"], **EXACT)

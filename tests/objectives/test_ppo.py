import math

import pytest
import torch
from torch.testing import assert_close

from tests.worked import EXACT, worked
from training.objectives.ppo import (
    compute_gae,
    compute_rewards,
    explained_variance,
    policy_loss,
    shape_scores,
    value_loss,
)

NAN = float("nan")
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
EVERYWHERE = torch.ones_like(MASK)


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MASK.shape, generator=generator, dtype=torch.float64)


def dirty(values, what=NAN):
    """The same tensor with something in its padding that must not matter."""
    return values.masked_fill(~MASK, what)


def policy(logprobs, old_logprobs, advantages, mask=MASK, clip_range=0.2, token_count=None):
    return policy_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip_range=clip_range,
        token_count=token_count or int(mask.sum()),
    )


def value(values, old_values, returns, mask=MASK, value_clip_range=0.2, token_count=None):
    return value_loss(
        values,
        old_values,
        returns,
        mask,
        value_clip_range=value_clip_range,
        token_count=token_count or int(mask.sum()),
    )


class TestRewards:
    def test_by_hand_with_a_ragged_batch(self):
        kl = doubles([[0.1, 0.2, -0.1, 0.0], [1.0, -2.0, 9.0, 9.0]])
        rewards = compute_rewards(doubles([3.0, -1.0]), kl, MASK, kl_coef=0.5)
        assert_close(rewards, doubles([[-0.05, -0.1, 0.05, 3.0], [-0.5, 0.0, 0.0, 0.0]]))

    def test_without_a_coefficient_the_score_at_the_last_token_is_all(self):
        rewards = compute_rewards(doubles([3.0, -1.0]), normal(0), MASK, kl_coef=0.0)
        assert_close(rewards, doubles([[0, 0, 0, 3.0], [0, -1.0, 0, 0]]))

    def test_a_response_earns_its_score_less_the_penalty(self):
        kl, scores = normal(0), doubles([3.0, -1.0])
        rewards = compute_rewards(scores, kl, MASK, kl_coef=0.7)
        penalty = 0.7 * kl.masked_fill(~MASK, 0.0).sum(dim=1)
        assert_close(rewards.sum(dim=1), scores - penalty)

    @pytest.mark.parametrize("what", [NAN, 1e30])
    def test_padding_may_hold_anything(self, what):
        scores = doubles([3.0, -1.0])
        clean = compute_rewards(scores, normal(0), MASK, kl_coef=0.7)
        assert_close(compute_rewards(scores, dirty(normal(0), what), MASK, kl_coef=0.7), clean)
        assert (clean[~MASK] == 0).all()

    def test_inputs_are_not_written_to(self):
        kl = normal(0)
        compute_rewards(doubles([3.0, -1.0]), kl, MASK, kl_coef=0.7)
        assert_close(kl, normal(0))


class TestScores:
    @pytest.mark.parametrize(
        ("missing_eos", "expected"),
        [("replace", [5.0, -2.0, -2.0]), ("subtract", [5.0, -7.0, -1.0]), ("none", [5.0, -5.0, 1])],
    )
    def test_clipping_comes_before_the_penalty_for_no_end(self, missing_eos, expected):
        shaped = shape_scores(
            doubles([8.0, -9.0, 1.0]),
            torch.tensor([True, False, False]),
            score_clip=5.0,
            missing_eos=missing_eos,
            missing_eos_penalty=2.0,
        )
        assert_close(shaped, doubles(expected))

    def test_a_clip_of_zero_does_not_clip(self):
        scores = doubles([8.0, -900.0])
        ends = torch.tensor([True, True])
        shaped = shape_scores(
            scores, ends, score_clip=0.0, missing_eos="replace", missing_eos_penalty=1.0
        )
        assert_close(shaped, scores)


class TestGAE:
    @pytest.mark.parametrize(
        ("gamma", "gae_lambda", "name"),
        [
            (1.0, 0.95, "gamma1_lam0.95"),
            (0.9, 0.8, "gamma0.9_lam0.8"),
            (1.0, 1.0, "gamma1_lam1"),
            (1.0, 0.0, "gamma1_lam0"),
        ],
    )
    def test_full_responses_give_the_worked_numbers(self, gamma, gae_lambda, name):
        inputs, expected = worked("gae")
        advantages, returns = compute_gae(
            inputs["rewards"], inputs["values"], EVERYWHERE, gamma=gamma, gae_lambda=gae_lambda
        )
        assert_close(advantages, expected[name]["advantages"], **EXACT)
        assert_close(returns, expected[name]["returns"], **EXACT)

    def test_ragged_responses_by_hand(self):
        rewards = doubles([[1.0, 0.0, 2.0, 0.0], [0.0, 4.0, 7.0, 7.0]])
        values = doubles([[0.5, 1.0, 1.0, -1.0], [1.0, 2.0, 7.0, 7.0]])
        advantages, returns = compute_gae(rewards, values, MASK, gamma=0.5, gae_lambda=0.5)
        # Row 1 from its end: 4 - 2 = 2; 0 + 0.5 * 2 - 1 + 0.25 * 2 = 0.5.
        # Row 0: 0 + 1 = 1; 2 - 0.5 - 1 + 0.25 = 0.75; 0.5 - 1 + 0.1875 = -0.3125;
        # 1 + 0.5 - 0.5 - 0.078125 = 0.921875.
        by_hand = doubles([[0.921875, -0.3125, 0.75, 1.0], [0.5, 2.0, 0, 0]])
        assert_close(advantages, by_hand)
        assert_close(returns[MASK], (by_hand + values)[MASK])

    def test_with_lambda_one_the_returns_are_the_discounted_rewards_to_go(self):
        rewards = doubles([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
        _, returns = compute_gae(rewards, normal(1), MASK, gamma=0.5, gae_lambda=1.0)
        assert_close(returns, doubles([[0.125, 0.25, 0.5, 1.0], [0.5, 1.0, 0.0, 0.0]]))

    def test_with_lambda_zero_the_advantages_are_the_one_step_errors(self):
        rewards, values = normal(1), normal(2)
        advantages, _ = compute_gae(rewards, values, EVERYWHERE, gamma=0.9, gae_lambda=0.0)
        after = torch.cat([values[:, 1:], torch.zeros(2, 1, dtype=torch.float64)], dim=1)
        assert_close(advantages, rewards + 0.9 * after - values)

    def test_a_perfect_critic_leaves_no_advantage(self):
        rewards = normal(1)
        values = rewards.flip(1).cumsum(1).flip(1)
        advantages, returns = compute_gae(rewards, values, EVERYWHERE, gamma=1.0, gae_lambda=0.7)
        assert_close(advantages, torch.zeros_like(rewards))
        assert_close(returns, values)

    @pytest.mark.parametrize("what", [NAN, 1e30])
    def test_padding_may_hold_anything_and_a_row_stands_alone(self, what):
        rewards, values = dirty(normal(1), what), dirty(normal(2), what)
        advantages, returns = compute_gae(rewards, values, MASK, gamma=0.9, gae_lambda=0.8)
        for row, length in enumerate([4, 2]):
            alone = compute_gae(
                normal(1)[row : row + 1, :length],
                normal(2)[row : row + 1, :length],
                torch.ones(1, length, dtype=torch.bool),
                gamma=0.9,
                gae_lambda=0.8,
            )
            assert_close(advantages[row : row + 1, :length], alone[0])
            assert_close(returns[row : row + 1, :length], alone[1])
        assert (advantages[~MASK] == 0).all()


class TestPolicyLoss:
    def test_a_rank_without_a_token_has_no_loss_and_no_movement(self):
        none = torch.zeros(0, requires_grad=True)
        found = policy(none, none, none, torch.zeros(0, dtype=torch.bool), token_count=5)
        assert found.loss == 0
        found.loss.backward()
        assert found.ratio_min == found.ratio_max == 1

    def test_loss_metrics_and_gradient_are_the_worked_numbers(self):
        inputs, expected = worked("ppo_policy_loss")
        logprobs = inputs["new_logprobs"].requires_grad_()
        found = policy(
            logprobs,
            inputs["old_logprobs"],
            inputs["advantages"],
            inputs["mask"],
            clip_range=inputs["clip"],
        )
        assert found.loss.item() == pytest.approx(expected["token_mean"], rel=1e-8)
        count = inputs["mask"].sum().item()
        assert found.clipped_tokens.item() / count == pytest.approx(expected["clipfrac"])
        assert found.kl_sum.item() / count == pytest.approx(expected["approx_kl_k2"], rel=1e-8)
        assert found.ratio_max.item() == pytest.approx(math.exp(0.4))
        assert found.ratio_min.item() == pytest.approx(math.exp(-0.5))  # not exp(-6), padding's
        found.loss.backward()
        assert_close(logprobs.grad, expected["grad"], **EXACT)

    def test_on_the_sampling_policy_nothing_is_clipped_and_the_gradient_is_reinforce(self):
        logprobs, advantages = normal(1).requires_grad_(), normal(2)
        found = policy(logprobs, logprobs.detach().clone(), advantages)
        found.loss.backward()
        assert (found.clipped_tokens, found.kl_sum) == (0, 0)
        assert (found.ratio_min, found.ratio_max) == (1, 1)
        assert_close(logprobs.grad, -advantages.masked_fill(~MASK, 0.0) / MASK.sum())

    def test_with_a_wide_clip_it_is_plain_importance_weighting(self):
        logprobs, old_logprobs, advantages = normal(1), normal(2), normal(3)
        found = policy(logprobs, old_logprobs, advantages, clip_range=1e9)
        weighted = (-(logprobs - old_logprobs).exp() * advantages)[MASK].mean()
        assert_close(found.loss, weighted)
        assert found.clipped_tokens == 0

    @pytest.mark.parametrize(
        ("ratio", "advantage", "moves"),
        [(1.5, 1.0, False), (0.5, -1.0, False), (1.5, -1.0, True), (0.5, 1.0, True)],
    )
    def test_only_a_change_that_has_gone_too_far_the_right_way_is_held(
        self, ratio, advantage, moves
    ):
        logprobs = doubles([[math.log(ratio)]]).requires_grad_()
        mask = torch.ones(1, 1, dtype=torch.bool)
        found = policy(logprobs, doubles([[0.0]]), doubles([[advantage]]), mask)
        found.loss.backward()
        assert_close(logprobs.grad, doubles([[-advantage * ratio if moves else 0.0]]))
        assert bool(found.clipped_tokens) is not moves

    def test_padding_may_hold_anything_and_gets_no_gradient(self):
        clean = policy(normal(1), normal(2), normal(3))
        for what in (NAN, 1e30, -math.inf):
            logprobs = dirty(normal(1), what).requires_grad_()
            found = policy(logprobs, dirty(normal(2), -1e30), dirty(normal(3), NAN))
            assert_close(vars(found), vars(clean))
            found.loss.backward()
            assert (logprobs.grad[~MASK] == 0).all()
            assert logprobs.grad.isfinite().all()

    def test_two_micro_batches_make_one_batch(self):
        whole = policy(normal(1), normal(2), normal(3)).loss
        parts = [
            policy(normal(1)[row], normal(2)[row], normal(3)[row], MASK[row], token_count=6).loss
            for row in ([0], [1])
        ]
        assert_close(torch.stack(parts).sum(), whole)


class TestValueLoss:
    def test_by_hand(self):
        values = doubles([[1.0, 0.3, 2.0, 0.0], [0.0, 5.0, 9.0, 9.0]]).requires_grad_()
        old_values = doubles([[0.0, 0.2, 2.1, 0.0], [1.0, 5.0, 0.0, 0.0]])
        returns = doubles([[2.0, 0.0, 2.0, 1.0], [1.0, 4.0, 0.0, 0.0]])
        found = value(values, old_values, returns)
        # Squares: max(1, (0.2 - 2)^2), 0.09, 0, 1, max(1, (0.8 - 1)^2), 1.
        assert found.loss.item() == pytest.approx((3.24 + 0.09 + 0 + 1 + 1 + 1) / 2 / 6)
        assert found.clipped_tokens == 1
        found.loss.backward()
        # Only the clipped token stands still; the others move towards their returns.
        expected = doubles([[0.0, 0.3, 0.0, -1.0], [-1.0, 1.0, 0.0, 0.0]]) / 6
        assert_close(values.grad, expected)

    def test_without_a_clip_it_is_half_the_mean_square(self):
        found = value(normal(1), normal(2), normal(3), value_clip_range=0.0)
        assert_close(found.loss, (normal(1) - normal(3))[MASK].square().mean() / 2)
        assert found.clipped_tokens == 0

    def test_where_the_critic_has_not_moved_clipping_changes_nothing(self):
        clipped = value(normal(1), normal(1), normal(3))
        assert_close(clipped.loss, value(normal(1), normal(1), normal(3), value_clip_range=0).loss)
        assert clipped.clipped_tokens == 0

    def test_padding_may_hold_anything_and_gets_no_gradient(self):
        clean = value(normal(1), normal(2), normal(3))
        for what in (NAN, 1e30):
            values = dirty(normal(1), what).requires_grad_()
            found = value(values, dirty(normal(2)), dirty(normal(3), what))
            assert_close(vars(found), vars(clean))
            found.loss.backward()
            assert (values.grad[~MASK] == 0).all()
            assert values.grad.isfinite().all()

    def test_two_micro_batches_make_one_batch(self):
        whole = value(normal(1), normal(2), normal(3)).loss
        parts = [
            value(normal(1)[row], normal(2)[row], normal(3)[row], MASK[row], token_count=6).loss
            for row in ([0], [1])
        ]
        assert_close(torch.stack(parts).sum(), whole)


class TestExplainedVariance:
    def test_a_perfect_critic_explains_all_and_a_constant_one_nothing(self):
        returns = dirty(normal(1))
        assert explained_variance(returns, returns, MASK).item() == pytest.approx(1.0)
        assert explained_variance(returns + 3.0, returns, MASK).item() == pytest.approx(1.0)
        constant = torch.full_like(returns, 7.0)
        assert explained_variance(constant, returns, MASK).item() == pytest.approx(0.0)

    def test_by_hand(self):
        # Errors 1, -1, 0, 0 (variance 0.5); returns 0, 0, 2, 2 (variance 1).
        mask = torch.ones(1, 4, dtype=torch.bool)
        returns = doubles([[0.0, 0.0, 2.0, 2.0]])
        values = doubles([[-1.0, 1.0, 2.0, 2.0]])
        assert explained_variance(values, returns, mask).item() == pytest.approx(0.5)
        assert explained_variance(values, torch.ones(1, 4), mask).isfinite()

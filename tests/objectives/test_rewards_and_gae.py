import pytest
import torch
from torch.testing import assert_close

from tests.objectives.batches import EVERYWHERE, MASK, NAN, dirty, doubles, normal
from tests.worked import EXACT, worked
from training.objectives.ppo import (
    compute_gae,
    compute_rewards,
    explained_variance,
    shape_scores,
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
    def test_padding_may_hold_anything_and_rows_are_independent(self, what):
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

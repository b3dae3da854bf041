import math

import pytest
import torch
from torch.testing import assert_close

from tests.objectives.batches import MASK, NAN, dirty, doubles, normal
from tests.worked import EXACT, worked
from training.objectives.ppo import policy_loss, value_loss


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


class TestPolicyLoss:
    def test_a_rank_without_a_token_has_no_loss_and_no_extreme(self):
        none = torch.zeros(0, requires_grad=True)
        found = policy(none, none, none, torch.zeros(0, dtype=torch.bool), token_count=5)
        assert found.loss == 0
        found.loss.backward()
        assert (found.ratio_min, found.ratio_max) == (torch.inf, -torch.inf)

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
        # Only the clipped token has no gradient; the others move towards their returns.
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

import math

import pytest
import torch
from torch.testing import assert_close

from tests.worked import EXACT, worked
from training.objectives.kl import adapt_kl_coef, estimate_kl

NAN = float("nan")
ESTIMATORS = ["k1", "k2", "k3"]


def full(rows):
    return torch.ones(rows.shape, dtype=torch.bool)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_estimator_gives_the_worked_numbers(estimator):
    inputs, expected = worked("kl_token_estimators")
    logprobs, ref_logprobs = inputs["logprobs"][None], inputs["ref_logprobs"][None]
    kl = estimate_kl(logprobs, ref_logprobs, full(logprobs), estimator=estimator)
    assert_close(kl[0], expected[estimator], **EXACT)
    assert kl.sum().item() == pytest.approx(expected[f"{estimator}_sum"], rel=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_exact_expectation_over_a_categorical(estimator):
    inputs, expected = worked("kl_exact_expectation")
    policy, ref = inputs["policy_probs"], inputs["ref_probs"]
    kl = estimate_kl(policy.log()[None], ref.log()[None], full(policy[None]), estimator=estimator)
    mean = (policy * kl[0]).sum()
    std = ((policy * kl[0].square()).sum() - mean.square()).sqrt()
    assert mean.item() == pytest.approx(expected[estimator]["mean"], rel=1e-8)
    assert std.item() == pytest.approx(expected[estimator]["std"], rel=1e-8)
    if estimator != "k2":
        assert mean.item() == pytest.approx(expected["kl"], rel=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("index", [0, 1])
def test_bias_and_spread_on_gaussians_are_those_of_the_closed_form(estimator, index):
    _, expected = worked("kl_gaussian_closed_form")
    row = expected["rows"][index]
    x = torch.linspace(-12, 12, 48_001, dtype=torch.float64)[None]
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[0, 1] - x[0, 0])
    kl = estimate_kl(-x.square() / 2, -(x - row["mu"]).square() / 2, full(x), estimator=estimator)
    mean = (density * kl).sum()
    std = ((density * kl.square()).sum() - mean.square()).sqrt()
    assert mean.item() / row["kl"] - 1 == pytest.approx(row[estimator]["rel_bias"], abs=1e-6)
    assert std.item() / row["kl"] == pytest.approx(row[estimator]["rel_std"], rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_policies_have_no_divergence(estimator):
    logprobs = torch.tensor([[-0.5, -3.0]])
    kl = estimate_kl(logprobs, logprobs.clone(), full(logprobs), estimator=estimator)
    assert_close(kl, torch.zeros(1, 2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_padding_may_hold_anything_and_counts_as_zero(estimator):
    mask = torch.tensor([[True, True, False, False]])
    logprobs = torch.tensor([[-1.0, -2.0, NAN, 0.0]])
    ref_logprobs = torch.tensor([[-1.5, -1.0, 0.0, -math.inf]])
    kl = estimate_kl(logprobs, ref_logprobs, mask, estimator=estimator)
    alone = estimate_kl(
        logprobs[:, :2], ref_logprobs[:, :2], full(logprobs[:, :2]), estimator=estimator
    )
    assert_close(kl, torch.cat([alone, torch.zeros(1, 2)], dim=1))


def test_the_controller_follows_the_worked_run():
    inputs, expected = worked("adaptive_kl_controller")
    coef, found = inputs["init"], []
    for kl in inputs["kl_sequence"].tolist():
        coef = adapt_kl_coef(
            coef,
            kl=kl,
            kl_target=inputs["target"],
            episodes=inputs["n_steps"],
            kl_horizon=inputs["horizon"],
        )
        found.append(coef)
    assert found == pytest.approx(expected["coef_after_each"].tolist(), rel=1e-8)


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.005), (100.0, 1.01), (0.0, 0.99)])
def test_the_controller_steers_towards_the_target_and_never_far_at_once(kl, factor):
    found = adapt_kl_coef(2.0, kl=kl, kl_target=6.0, episodes=50, kl_horizon=1000)
    assert found == pytest.approx(2.0 * factor)

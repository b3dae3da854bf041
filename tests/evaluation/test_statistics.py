import numpy as np
import pytest

from training.evaluation.statistics import (
    best_of_n_kl,
    bootstrap_interval,
    compute_wins,
)


def test_a_tie_counts_one_half():
    assert compute_wins([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 9.0]).mean() == 0.625


def test_swapping_the_sides_turns_the_win_rate_around():
    before, after = [0.1, 0.2, 0.3, 0.3], [0.2, 0.1, 0.3, 0.4]
    assert compute_wins(before, after).mean() == 1.0 - compute_wins(after, before).mean()


@pytest.mark.parametrize(
    ("before", "after"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [float("nan")])]
)
def test_sides_that_cannot_be_paired_are_refused(before, after):
    with pytest.raises(ValueError, match="paired comparison"):
        compute_wins(before, after)


def test_an_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([0.5] * 20, ["a", "b"] * 10, seed=0) == (0.5, 0.5)


def test_the_interval_is_the_same_for_a_seed():
    values, groups = [0.0, 1.0] * 30, [str(n // 6) for n in range(60)]
    assert bootstrap_interval(values, groups, seed=3) == bootstrap_interval(values, groups, seed=3)


def test_order_and_names_of_groups_do_not_matter():
    rng = np.random.default_rng(0)
    values, groups = rng.random(40), [f"{n // 4:02d}" for n in range(40)]
    renamed = [f"film {g}" for g in groups]
    assert bootstrap_interval(values, groups, seed=1) == bootstrap_interval(values, renamed, seed=1)


def test_without_groups_the_interval_is_that_of_the_normal_approximation():
    values = np.array([1.0] * 240 + [0.0] * 160)
    low, high = bootstrap_interval(values, [str(n) for n in range(400)], samples=20_000, seed=0)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 400)
    # The bootstrap itself is random: a hundredth of the interval's width.
    assert low == pytest.approx(0.6 - half, abs=0.004)
    assert high == pytest.approx(0.6 + half, abs=0.004)


def test_groups_that_agree_inside_widen_the_interval_by_the_root_of_their_size():
    wins = np.repeat(np.array([1.0] * 30 + [0.0] * 20), 8)
    groups = [str(n // 8) for n in range(400)]
    low, high = bootstrap_interval(wins, groups, samples=20_000, seed=0)
    alone = bootstrap_interval(wins, [str(n) for n in range(400)], samples=20_000, seed=0)
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(np.sqrt(8), rel=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        film = np.repeat(rng.normal(0.0, 1.0, 40), 5)  # responses about one film go together
        values = film + rng.normal(0.0, 1.0, 200)
        groups = [str(n // 5) for n in range(200)]
        low, high = bootstrap_interval(values, groups, samples=400, seed=trial)
        covered += low <= 0.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_values_without_groups_are_refused():
    with pytest.raises(ValueError, match="each value needs its group, got 2 and 1"):
        bootstrap_interval([0.0, 1.0], ["a"], seed=0)


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (4, 0.6363), (16, 1.8351)])
def test_best_of_n_spends_little_kl(n, nats):
    assert best_of_n_kl(n) == pytest.approx(nats, abs=5e-5)


def test_kl_of_best_of_n_is_that_of_the_best_of_n_uniform_draws():
    # The best of n uniform draws has density n x^(n - 1); its KL to the uniform, by the midpoints.
    n, x = 5, (np.arange(1_000_000) + 0.5) / 1_000_000
    density = n * x ** (n - 1)
    assert best_of_n_kl(n) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-6)

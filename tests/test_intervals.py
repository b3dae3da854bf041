import pytest

from training.intervals import wilson_interval


def test_wilson_interval_of_a_published_case():
    # 81 of 263: the worked example of Newcombe 1998, Statistics in Medicine 17, table I.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_wilson_interval_stays_inside_0_and_1(n):
    low, high = wilson_interval(0, n)
    assert low == 0.0
    assert 0.0 < high < 1.0
    assert wilson_interval(n, n) == pytest.approx((1.0 - high, 1.0))


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes must be in"):
        wilson_interval(successes, n)

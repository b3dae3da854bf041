import pytest

from training.data.annotation.agreement import (
    cohen_kappa,
    compute_agreement_with_others,
    estimate_annotator_error,
    krippendorff_alpha,
    percent_agreement,
)

# The example of the Wikipedia article on Krippendorff's alpha: three coders, gaps, nominal 0.691.
CODERS = {
    "A": "*****34121133*3",
    "B": "1*213343*******",
    "C": "**21344*21133*4",
}
UNITS = [
    {name: float(values[n]) for name, values in CODERS.items() if values[n] != "*"}
    for n in range(15)
]


def test_krippendorffs_alpha_of_a_published_example():
    assert krippendorff_alpha(u for u in UNITS if len(u) > 1) == pytest.approx(0.691, abs=5e-4)


def test_cohens_kappa_of_a_published_example():
    # 50 applications, two readers: 20 both yes, 15 both no, 5 and 10 apart (Wikipedia).
    first = [1.0] * 25 + [0.0] * 25
    second = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_equal_judgements_are_full_agreement_and_opposite_ones_none():
    units = [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]
    assert percent_agreement(units) == krippendorff_alpha(units) == 1.0
    opposite = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    assert percent_agreement(opposite) == 0.0
    assert cohen_kappa([1.0, 0.0], [0.0, 1.0]) == -1.0
    assert krippendorff_alpha(opposite) == pytest.approx(-0.5)


def test_where_nobody_can_be_compared_there_is_no_figure():
    assert percent_agreement([]) is None
    assert krippendorff_alpha([]) is None
    assert cohen_kappa([], []) is None
    assert cohen_kappa([1.0, 1.0], [1.0, 1.0]) is None
    assert krippendorff_alpha([{"a": 1.0, "b": 1.0}]) is None
    assert estimate_annotator_error(None) is None


def test_each_annotator_is_compared_with_all_others_of_a_unit():
    units = [{"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "c": 1.0}]
    assert compute_agreement_with_others(units) == {"a": 2 / 3, "b": 1 / 2, "c": 1 / 3}


@pytest.mark.parametrize("error", [0.0, 0.05, 0.1, 0.3])
def test_the_error_explains_the_agreement(error):
    agreement = (1 - error) ** 2 + error**2
    assert estimate_annotator_error(agreement) == pytest.approx(error, abs=1e-9)


def test_agreement_by_chance_is_an_error_of_a_half():
    assert estimate_annotator_error(0.5) == estimate_annotator_error(0.3) == 0.5

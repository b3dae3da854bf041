import math

import pytest

from training.objectives.sft import perplexity


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity(math.log(50.0)) == pytest.approx(50.0)
    assert perplexity(0.0) == 1.0


def test_perplexity_of_a_diverged_model_is_infinite_and_not_an_error():
    assert perplexity(1e6) == math.inf
    assert math.isfinite(perplexity(699.0))

"""The arithmetic of supervised fine-tuning. Its loss is `tensors.summed_cross_entropy`."""

import math


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf

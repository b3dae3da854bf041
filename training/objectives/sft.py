"""The arithmetic of supervised fine-tuning."""

import math

from torch import Tensor


def cross_entropy(logprobs: Tensor, where: slice) -> Tensor:  # [n] -> 0-d
    """Summed cross-entropy of tokens with these log-probs: a `TokenLoss`."""
    return -logprobs.sum()


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf

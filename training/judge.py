"""The type of a judge, which evaluation and the alarms of PPO both use."""

from collections.abc import Callable, Sequence

# One score per text, higher is better. A judge takes no part in training.
Judge = Callable[[Sequence[str]], Sequence[float]]

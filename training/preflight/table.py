"""A self-check's results as a table. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the table; `measured` must be at most `bound`, or at least where so said."""

    name: str
    measured: float
    bound: float
    hint: str
    at_least: bool = False

    @property
    def is_ok(self) -> bool:
        good = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return good  # of NaN neither holds


def table(checks: Sequence[Check]) -> str:
    """The checks as lines, and a hint for each that failed."""
    width = max(len(check.name) for check in checks)
    lines = [f"{'check':<{width}}  {'measured':>10}  {'bound':>10}  ok"]
    for check in checks:
        bound = f"{'>=' if check.at_least else '<='} {check.bound:.3g}"
        ok = "yes" if check.is_ok else "NO"
        lines.append(f"{check.name:<{width}}  {check.measured:>10.3g}  {bound:>10}  {ok}")
    failed = [check for check in checks if not check.is_ok]
    return "\n".join([*lines, *(f"{check.name}: {check.hint}" for check in failed)])

"""Wraps functions of the programs under test, to watch them at work without changing it."""

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Patches:
    """Inside the `with` block attributes are replaced; afterwards all are as they were."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Patches":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)

    def around(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Call `wrapper(original, *inputs)` wherever `owner.name(*inputs)` was called."""
        original = getattr(owner, name)
        self._originals.append((owner, name, original))

        def replacement(*inputs: Any, **options: Any) -> Any:
            return wrapper(original, *inputs, **options)

        setattr(owner, name, replacement)

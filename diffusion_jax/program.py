"""A jitted function together with the shapes that it is compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Program(NamedTuple):
    """What runs a step: called with data by those who have some, compiled without data by all others.

    Attributes:
        jitted: a function of `jax.jit`.
        arguments: its positional arguments, pytrees of jax.ShapeDtypeStruct with shardings.
    """

    jitted: Callable[..., Any]
    arguments: tuple[Any, ...]

    def lower(self) -> jax.stages.Lowered:
        """The program for its arguments, traced; `.compile()` of it needs no data, and no devices at hand."""
        return self.jitted.lower(*self.arguments)

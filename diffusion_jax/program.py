"""A jitted function together with the shapes that it is compiled for."""

from typing import Any, NamedTuple

import jax


class Program(NamedTuple):
    """A jitted function that can be called with data, or compiled without.

    Attributes:
        jitted: a function of `jax.jit`.
        arguments: its positional arguments, pytrees of jax.ShapeDtypeStruct with shardings.
    """

    jitted: Any
    arguments: tuple[Any, ...]

    def lower(self) -> jax.stages.Lowered:
        """The lowered program; `.compile()` of it needs neither data nor the devices."""
        return self.jitted.lower(*self.arguments)

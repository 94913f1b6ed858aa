"""Programs as JAX traces them."""

from collections.abc import Iterator

from jax.extend import core


def equations(jaxpr: core.Jaxpr) -> Iterator:
    """All equations of a jaxpr, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            if isinstance(value, core.ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, core.Jaxpr):
                yield from equations(value)

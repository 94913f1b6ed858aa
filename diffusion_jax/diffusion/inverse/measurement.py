"""A measurement y = A x_0 + noise·n of a clean image, n ~ N(0, I)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.inverse.operators import adjoint, as_operator, solve
from diffusion_jax.diffusion.parts import Number, Part, option, rows


class Measurement(Part):
    """What was measured of every image. y and the noise are traced: others compile no new program.

    Attributes:
      operator: A, an `Operator` or a linear function [B, H, W, C] → [B, …] of images in [−1, 1].
      y: [1 or B, …]; the Generator also accepts it without the first axis.
      noise: s, the standard deviation of the noise, for images in [−1, 1]: twice that for images in [0, 1].
    """

    operator: Any
    y: Any = rows()
    noise: Number = option(default=0.0, per_image=True)

    def __post_init__(self) -> None:
        if callable(self.operator):
            object.__setattr__(self, 'operator', as_operator(self.operator))

    def residual(self, x_0: Array) -> Array:
        """y − A x_0, [B, …]."""
        return self.y - self.operator(x_0)

    def squared_error(self, x_0: Array) -> Array:
        """‖y − A x_0‖², [B]."""
        squares = self.residual(x_0) ** 2
        return jnp.sum(squares, axis=tuple(range(1, squares.ndim)))

    def log_prob(self, x_0: Array, level: Any = None) -> Array:
        """log p(y|x_0) without its constant, [B]; needs noise above 0."""
        return -self.squared_error(x_0) / (2 * jnp.asarray(self.noise) ** 2)

    def adjoint(self, y: Array, x: Array) -> Array:
        """Aᵀy, for images like x."""
        return adjoint(self.operator, y, x)

    def solve(self, a: Any, b: Any, v: Array) -> Array:
        """(a·AᵀA + b)⁻¹ v; see `operators.solve`."""
        return solve(self.operator, a, b, v)

    def projected(self, x_0: Array, y: Array | None = None) -> Array:
        """x_0 + A⁺(y − A x_0), the nearest image to x_0 with the measurement y."""
        residual = (self.y if y is None else y) - self.operator(x_0)
        return x_0 + self.solve(1.0, 0.0, self.adjoint(residual, x_0))

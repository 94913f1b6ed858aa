"""A measurement y = A x_0 + noise·n of a clean image, n ~ N(0, I)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.inverse.operators import FunctionOperator, Operator, adjoint, solve
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
        if callable(self.operator) and not isinstance(self.operator, Operator):
            object.__setattr__(self, 'operator', FunctionOperator(self.operator))

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

    def correction(self, x_0: Array, a: Any, b: Any, y: Array | None = None) -> Array:
        """(a·AᵀA + b)⁻¹ Aᵀ(y − A x_0), which is A⁺(y − A x_0)/a where b is 0; a, b: [] or [B]."""
        residual = (self.y if y is None else y) - self.operator(x_0)
        return solve(self.operator, a, b, adjoint(self.operator, residual, x_0))

    def projected(self, x_0: Array, y: Array | None = None) -> Array:
        """x_0 + A⁺(y − A x_0), the nearest image to x_0 with the measurement y."""
        return x_0 + self.correction(x_0, 1.0, 0.0, y)

"""Linear operators x [B, H, W, C] → A x [B, …] as functions, and what inverse problems need of them.

With the singular value decomposition A = U S Vᵀ all methods here need only A, its adjoint Aᵀ, and V f(S)
Vᵀ for functions f of the singular values: the pseudo-inverse, for example, is A⁺y = V S⁻² Vᵀ Aᵀy. So no
operator has to return singular vectors; the steps of DDRM (2201.11793), which is written with them, are
such functions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.parts import Part, rows, static
from diffusion_jax.errors import UserError, reason

# Singular values, with four axes that broadcast against x [B, H, W, C] → values of the same shape.
Spectrum = Callable[[Array], Array]
# Singular values below this count as 0 in a pseudo-inverse, as in DDRM's release.
SMALLEST = 1e-3
CG_STEPS = 64


class Operator(Part):
    """A linear operator; a subclass defines `__call__`, and `spectral` if it is known.

    Its arrays are fields made by `rows`: [1, …], or [B, …] with one for each image. Masks and kernels may be
    given without the first axis.
    """

    @property
    def has_spectrum(self) -> bool:
        return type(self).spectral is not Operator.spectral

    def __call__(self, x: Array) -> Array:
        """A x, [B, …]."""
        raise NotImplementedError

    def spectral(self, function: Spectrum, x: Array) -> Array:
        """V f(S) Vᵀ x, with f(0) in the directions that A does not measure."""
        raise NotImplementedError


class FunctionOperator(Operator):
    """An operator from a linear function of images without a known spectrum."""

    function: Callable[[Array], Array] = static()

    def __call__(self, x: Array) -> Array:
        return self.function(x)


class Mask(Operator):
    """mask·x: pixels where the mask is 0 are not measured, and y is 0 there.

    Attributes:
      mask: [1 or B, H, W, 1 or C], from 0 to 1.
    """

    mask: Any = rows(4)

    def __call__(self, x: Array) -> Array:
        return self.mask * x

    def spectral(self, function: Spectrum, x: Array) -> Array:
        return function(jnp.abs(self.mask).astype(x.dtype)) * x


class Uniform(Operator):
    """An operator whose singular values are all equal: A Aᵀ = value²·I."""

    def value(self, x: Array) -> float:
        """The singular value, for images like x."""
        raise NotImplementedError

    def spectral(self, function: Spectrum, x: Array) -> Array:
        value = jnp.full((1, 1, 1, 1), self.value(x), x.dtype)
        unmeasured = function(jnp.zeros_like(value))
        projected = adjoint(self, self(x), x) / value**2
        return unmeasured * x + (function(value) - unmeasured) * projected


class Downsample(Uniform):
    """The means of squares of `factor`² pixels, [B, H/factor, W/factor, C]."""

    factor: int = static(default=4)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        factor = self.factor
        return x.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))

    def value(self, x: Array) -> float:
        return 1 / self.factor


class Gray(Uniform):
    """The mean of the channels, [B, H, W, 1]."""

    def __call__(self, x: Array) -> Array:
        return x.mean(-1, keepdims=True)

    def value(self, x: Array) -> float:
        return x.shape[-1] ** -0.5


class Blur(Operator):
    """Circular convolution of every channel with a kernel.

    Attributes:
      kernel: [1 or B, h, w], at most as large as the images; its centre is at [h // 2, w // 2].
    """

    kernel: Any = rows(3)

    def _transfer(self, x: Array) -> Array:
        kernel = jnp.asarray(self.kernel, x.dtype)
        kernel = kernel[None] if kernel.ndim == 2 else kernel
        height, width = kernel.shape[1:]
        padded = jnp.pad(kernel, [(0, 0), (0, x.shape[1] - height), (0, x.shape[2] - width)])
        centred = jnp.roll(padded, (-(height // 2), -(width // 2)), axis=(1, 2))
        return jnp.fft.rfft2(centred, axes=(1, 2))[..., None]

    def __call__(self, x: Array) -> Array:
        return _filtered(x, self._transfer(x))

    def spectral(self, function: Spectrum, x: Array) -> Array:
        return _filtered(x, function(jnp.abs(self._transfer(x))))


class Dense(Operator):
    """Any linear function of small images, with singular values and vectors from `dense`.

    Attributes:
      values, vectors: [1 or B, r] and [1 or B, r, H·W·C], of its matrix.
    """

    function: Callable[[Array], Array] = static()
    values: Any = rows(2)
    vectors: Any = rows(3)

    def __call__(self, x: Array) -> Array:
        return self.function(x)

    def spectral(self, function: Spectrum, x: Array) -> Array:
        vectors, values = jnp.asarray(self.vectors, x.dtype), jnp.asarray(self.values, x.dtype)
        vectors = jnp.broadcast_to(vectors, (len(x), *vectors.shape[1:]))
        unmeasured = function(jnp.zeros((1, 1, 1, 1), x.dtype))
        coordinates = jnp.einsum('bri,bi->br', vectors, x.reshape(len(x), -1))
        change = function(values[..., None, None]) - unmeasured
        measured = jnp.einsum('bri,br->bi', vectors, change[..., 0, 0] * coordinates)
        return unmeasured * x + measured.reshape(x.shape)


def dense(function: Callable[[Array], Array], shape: tuple[int, int, int]) -> Dense:
    """A linear function of images of this shape with its decomposition, from one evaluation at each pixel.

    Raises:
      UserError: the function fails for images of this shape.
    """
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), np.float32))
    except (TypeError, ValueError) as error:
        remedy = 'must be (height, width, channels) of images that the function takes'
        raise UserError('shape', f'got {shape!r}: {reason(error)}', remedy) from error
    size = int(np.prod(shape))
    basis = jnp.eye(size).reshape(size, *shape)
    matrix = np.asarray(jax.lax.map(lambda x: function(x[None])[0], basis)).reshape(size, -1).T
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return Dense(function, values[None], vectors[None])


def adjoint(operator: Callable[[Array], Array], y: Array, x: Array) -> Array:
    """Aᵀy; x: an image [B, H, W, C] that gives shape and dtype."""
    out = jax.eval_shape(operator, x)
    return jax.linear_transpose(operator, x)(jnp.broadcast_to(y, out.shape).astype(out.dtype))[0]


def solve(operator: Operator, a: Any, b: Any, v: Array) -> Array:
    """(a·AᵀA + b)⁻¹ v; where b is 0 the pseudo-inverse, for v = Aᵀ(…); a, b: [] or [B].

    By the spectrum if it is known, otherwise by at most CG_STEPS steps of conjugate gradients for each image.
    """
    a, b = (jnp.reshape(c, (-1, 1, 1, 1)) for c in (a, b))
    if operator.has_spectrum:

        def inverse(s: Array) -> Array:
            total = a * s**2 + b
            kept = (b > 0) | (s > SMALLEST)
            return jnp.where(kept, 1 / jnp.where(kept, total, 1.0), 0.0)

        return operator.spectral(inverse, v)
    return conjugate_gradients(lambda x: a * adjoint(operator, operator(x), x) + b * x, v)


def conjugate_gradients(product: Callable[[Array], Array], v: Array) -> Array:
    """M⁻¹ v for a symmetric positive M, x → M x; every image [B, …] stops at the rounding of its own v."""
    axes = tuple(range(1, v.ndim))

    def dot(one: Array, two: Array) -> Array:
        return jnp.sum(one * two, axes, keepdims=True)

    def step(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, residual, direction = carry
        size, image = dot(residual, residual), product(direction)
        goes_on = size > enough
        curvature = dot(direction, image)
        length = jnp.where(goes_on, size / jnp.where(goes_on, curvature, 1.0), 0.0)
        x, residual = x + length * direction, residual - length * image
        ratio = jnp.where(goes_on, dot(residual, residual) / jnp.where(goes_on, size, 1.0), 0.0)
        return x, residual, jnp.where(goes_on, residual + ratio * direction, direction)

    enough = (jnp.finfo(v.dtype).eps ** 2) * dot(v, v)
    return jax.lax.fori_loop(0, CG_STEPS, step, (jnp.zeros_like(v), v, v))[0]


def _filtered(x: Array, transfer: Array) -> Array:
    spectrum = jnp.fft.rfft2(x, axes=(1, 2)) * transfer
    return jnp.fft.irfft2(spectrum, s=x.shape[1:3], axes=(1, 2)).astype(x.dtype)

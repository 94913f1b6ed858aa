import functools

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.flops import count_flops

A = jax.ShapeDtypeStruct((4, 8), jnp.float32)
B = jax.ShapeDtypeStruct((8, 16), jnp.float32)
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
PRODUCT = 2 * 4 * 8 * 16
CONVOLUTION = 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def conv(x, kernel, stride=1):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=numbers)


def counted(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def test_products_and_convolutions():
    assert counted(jnp.matmul, A, B) == PRODUCT
    assert counted(lambda a, b: jnp.einsum('hij,hjk->hik', a, b), *(
        jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in (A, B)
    )) == 3 * PRODUCT  # fmt: skip
    assert counted(conv, IMAGES, KERNEL) == CONVOLUTION
    assert counted(jnp.add, A, A) == 0


@pytest.mark.parametrize('stride', [1, 2])
def test_a_gradient_takes_twice_what_the_convolution_takes(stride):
    """With stride 2 the gradient of the images is a convolution of pixels with zeros between them."""
    forward = CONVOLUTION / stride**2
    convolve = functools.partial(conv, stride=stride)
    assert counted(convolve, IMAGES, KERNEL) == forward
    gradient = jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel) ** 2), (0, 1))
    assert counted(gradient, IMAGES, KERNEL) == 3 * forward


def test_inside_of_functions_loops_and_branches():
    assert counted(jax.jit(jax.checkpoint(jnp.matmul)), A, B) == PRODUCT
    loop = lambda a, b: jax.lax.scan(lambda carry, _: (carry, a @ b), 0, length=7)[1]  # noqa: E731
    assert counted(loop, A, B) == 7 * PRODUCT
    branch = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b.T @ b, lambda: a @ b)  # noqa: E731
    assert counted(branch, A, B) == 3 * PRODUCT

"""The estimate of a program's cost against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.models.attention import attend
from diffusion_jax.planning.cost import estimate

X = jax.ShapeDtypeStruct((4, 16, 16, 8), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 8, 32), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
IN, OUT, WEIGHTS = 4 * 4 * 16 * 16 * 8, 4 * 4 * 16 * 16 * 32, 4 * 3 * 3 * 8 * 32
FLOPS = 2 * 4 * 16 * 16 * 3 * 3 * 8 * 32


def cost(function, *arguments, **options):
    return estimate(jax.make_jaxpr(function)(*arguments).jaxpr, **options)


def conv(x, kernel, stride=1):
    layout = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=layout)


def test_a_convolution_reads_its_operands_and_writes_its_result():
    found = cost(conv, X, KERNEL)
    assert found.flops == {'float32 default': FLOPS}
    assert found.num_bytes == IN + WEIGHTS + OUT
    assert found.temporaries == 0


def test_what_follows_a_convolution_is_one_more_pass():
    found = cost(lambda x, kernel: jax.nn.silu(2 * conv(x, kernel) + 1), X, KERNEL)
    assert found.num_bytes == IN + WEIGHTS + OUT + OUT + OUT
    assert found.temporaries == OUT


@pytest.mark.parametrize(('stride', 'flops'), [(1, 3 * FLOPS), (2, 3 * FLOPS / 4)])
def test_a_gradient_takes_two_more_convolutions(stride, flops):
    gradient = jax.value_and_grad(lambda x, kernel: conv(x, kernel, stride).sum(), (0, 1))
    assert sum(cost(gradient, X, KERNEL).flops.values()) == flops


def test_products_by_dtype_and_precision():
    a, b = jax.ShapeDtypeStruct((5, 6, 7), jnp.bfloat16), jax.ShapeDtypeStruct((5, 7, 8), jnp.bfloat16)
    assert cost(jnp.matmul, a, b).flops == {'bfloat16': 2 * 5 * 6 * 7 * 8}
    c = jax.ShapeDtypeStruct((6, 7), jnp.float32)
    found = cost(lambda c: jnp.dot(c, c.T, precision='highest') + jnp.dot(c, c.T, precision='high'), c)
    assert found.flops == {'float32 highest': 2 * 6 * 6 * 7, 'float32 high': 2 * 6 * 6 * 7}


def test_loops():
    def repeated(x, kernel):
        return jax.lax.scan(lambda x, _: (conv(x, kernel), None), x, length=5)[0]

    def until(x, kernel, n):
        return jax.lax.fori_loop(0, n, lambda _, x: conv(x, kernel), x)

    def either(x, kernel, n):
        return jax.lax.cond(n > 0, lambda: conv(x, kernel), lambda: x)

    single = cost(conv, X, SQUARE)
    assert cost(repeated, X, SQUARE).flops == {'float32 default': 5 * FLOPS / 4}
    assert cost(repeated, X, SQUARE).num_bytes == 5 * single.num_bytes
    for function, arguments in ((repeated, ()), (until, (3,)), (either, (3,))):
        found = cost(function, X, SQUARE, *arguments, loops_once=True)
        assert found.flops == single.flops
        assert found.num_bytes == pytest.approx(single.num_bytes, abs=16)  # and counters


def test_statistics_in_one_pass_and_in_two():
    def one_pass(x):
        return jnp.mean(x), jnp.mean(x * x)

    def two_passes(x):
        mean = jnp.mean(x)
        return mean, jnp.mean((x - mean) ** 2)

    once, twice = (cost(function, X).num_bytes for function in (one_pass, two_passes))
    assert once == pytest.approx(IN, abs=64) and twice == pytest.approx(2 * IN, abs=64)


def test_rematerialisation_holds_less_and_computes_more():
    def loss(block, x, kernel):
        for _ in range(6):
            x = block(x, kernel)
        return x.sum()

    def block(x, kernel):
        return conv(jax.nn.silu(conv(jax.nn.silu(x), kernel)), kernel)

    def gradient(block):
        return cost(jax.grad(lambda kernel, x: loss(block, x, kernel)), SQUARE, X)

    stored, recomputed = gradient(block), gradient(jax.checkpoint(block))
    assert recomputed.temporaries < 0.6 * stored.temporaries
    # One more of six in every block: the last convolution's result is not needed again.
    assert 1.1 < sum(recomputed.flops.values()) / sum(stored.flops.values()) < 7 / 6
    assert stored.temporaries >= 12 * IN  # what every convolution was given


def test_what_is_not_used_costs_nothing():
    def unused(x, kernel):
        conv(x, kernel)
        return x + 1

    assert cost(unused, X, KERNEL).flops == {}


def test_weights_of_fused_attention_are_not_in_memory():
    q = jax.ShapeDtypeStruct((2, 64, 3, 16), jnp.bfloat16)
    array, rows = 2 * 64 * 3 * 16 * 2, 2 * 3 * 64 * 4
    fused, plain = (cost(attend, q, q, q, fused_attention=fused) for fused in (True, False))
    assert fused.flops == plain.flops
    # Scaling q and k, four arrays read or written; the products, four; the transposed result, two; and the
    # largest logit and the sum of each row.
    assert fused.num_bytes == 10 * array + 2 * rows
    assert plain.num_bytes > fused.num_bytes + 2 * 64 * rows
    single = 3 * [q.update(dtype=jnp.float32)]
    assert cost(attend, *single, fused_attention=True) == cost(attend, *single)

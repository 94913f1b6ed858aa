"""Operators against their matrices, and what is solved with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.inverse import Blur, Downsample, Gray, Mask, Measurement, adjoint, dense
from diffusion_jax.diffusion.inverse.operators import FunctionOperator, solve
from tests.errors import refused

SHAPE = 4, 6, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, *SHAPE))


def in_float64(function, *arguments):
    with jax.enable_x64(True):
        return function(*arguments)


OPERATORS = {
    'mask': Mask((RNG.random((1, 4, 6, 1)) > 0.5).astype(float)),
    'weights for each image': Mask(RNG.normal(size=(3, *SHAPE)) * (RNG.random((3, *SHAPE)) > 0.5)),
    'downsample': Downsample(2),
    'gray': Gray(),
    'blur': Blur(RNG.random((1, 3, 3)) / 9),
    'blur without the first axis': Blur(RNG.random((3, 2)) / 6),
    'even blur for each image': Blur(RNG.random((3, 2, 4)) / 8),
    'dense': in_float64(dense, lambda x: x[:, ::2, 1:] + 2 * x[:, 1::2, :-1], SHAPE),
}
each_operator = pytest.mark.parametrize('operator', OPERATORS.values(), ids=OPERATORS)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def matrices(operator):
    """[B, k, H·W·C], from one evaluation at each pixel."""
    basis = np.eye(X[0].size).reshape(-1, *SHAPE)
    columns = [np.asarray(operator(np.broadcast_to(b, X.shape))).reshape(len(X), -1) for b in basis]
    return np.stack(columns, axis=-1)


@each_operator
def test_adjoint_is_the_transposed_matrix(operator):
    y = RNG.normal(size=operator(X).shape)
    expected = np.einsum('bki,bk->bi', matrices(operator), y.reshape(len(X), -1))
    np.testing.assert_allclose(adjoint(operator, y, jnp.asarray(X)).reshape(len(X), -1), expected, atol=1e-12)


@each_operator
def test_spectral_is_the_function_of_the_singular_values(operator):
    found = operator.spectral(lambda s: jnp.cos(s) + s**2 - 0.3, jnp.asarray(X))
    for x, matrix, ours in zip(X, matrices(operator), found, strict=True):
        _, values, vectors = np.linalg.svd(matrix)
        values = np.concatenate([values, np.zeros(x.size - len(values))])
        expected = vectors.T @ ((np.cos(values) + values**2 - 0.3) * (vectors @ x.ravel()))
        np.testing.assert_allclose(ours.ravel(), expected, atol=1e-12)


@each_operator
def test_solve_is_the_inverse_with_a_spectrum_and_by_conjugate_gradients(operator):
    a, b = np.array([1.3, 0.2, 1.0]), np.array([0.2, 0.05, 1.0])
    expected = []
    for x, matrix, one, two in zip(X, matrices(operator), a, b, strict=True):
        expected.append(np.linalg.solve(one * matrix.T @ matrix + two * np.eye(x.size), x.ravel()))
    for kind in (operator, FunctionOperator(operator)):
        np.testing.assert_allclose(solve(kind, a, b, jnp.asarray(X)).reshape(3, -1), expected, atol=1e-10)


@each_operator
def test_without_b_it_is_the_pseudo_inverse(operator):
    y = operator(jnp.asarray(X))
    expected = np.einsum('bik,bk->bi', np.linalg.pinv(matrices(operator)), y.reshape(len(X), -1))
    for kind in (operator, FunctionOperator(operator)):
        found = solve(kind, 1.0, 0.0, adjoint(kind, y, jnp.asarray(X))).reshape(3, -1)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_solution_does_not_depend_on_the_batch():
    function, v = FunctionOperator(OPERATORS['blur']), jnp.asarray(X)
    harder = v.at[1].multiply(1e6)
    np.testing.assert_array_equal(solve(function, 1.0, 0.1, v)[0], solve(function, 1.0, 0.1, harder)[0])


def test_float32_is_kept():
    for operator in OPERATORS.values():
        x = jnp.asarray(X, jnp.float32)
        assert operator.spectral(lambda s: s + 1, x).dtype == jnp.float32


def test_measurement():
    measurement = Measurement(lambda x: x.mean((1, 2)), np.zeros((1, 3)), 0.5)
    error = np.sum(X.mean((1, 2)) ** 2, axis=1)
    np.testing.assert_allclose(measurement.squared_error(X), error)
    np.testing.assert_allclose(measurement.log_prob(X), -2 * error)
    np.testing.assert_allclose(measurement.projected(X).mean((1, 2)), 0, atol=1e-12)
    other = Measurement(measurement.operator, np.ones((3, 3)), 0.1)
    assert jax.tree.structure(other) == jax.tree.structure(measurement)


@pytest.mark.parametrize(
    ('function', 'shape'), [(Downsample(3), (8, 8, 1)), (Gray(), 64), (Downsample(2), (8, 8)), (Gray(), 'a')]
)
def test_a_matrix_of_a_shape_that_the_function_does_not_take_is_refused(function, shape):
    with refused('shape', repr(shape)):
        dense(function, shape)

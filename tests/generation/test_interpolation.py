import numpy as np

from diffusion_jax.generation import interpolate
from tests.errors import refused

A, B = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 1)).astype(np.float32)


def norms(x):
    return np.linalg.norm(x.reshape(len(x), -1), axis=1)


def test_the_ends_are_the_noises():
    np.testing.assert_allclose(interpolate(A, B, 0), A, atol=1e-6)
    np.testing.assert_allclose(interpolate(A, B, [1, 0, 1]), np.stack([B[0], A[1], B[2]]), atol=1e-6)


def test_it_follows_the_great_circle_at_a_constant_speed():
    unit_a, unit_b = A / norms(A)[:, None, None, None], B / norms(B)[:, None, None, None]
    angle = np.arccos(np.sum(unit_a * unit_b, axis=(1, 2, 3)))
    for fraction in (0.25, 0.5, 0.8):
        between = interpolate(unit_a, unit_b, fraction)
        np.testing.assert_allclose(norms(between), 1, rtol=1e-6)
        np.testing.assert_allclose(
            np.arccos(np.sum(between * unit_a, axis=(1, 2, 3))), fraction * angle, rtol=1e-5
        )


def test_the_angle_does_not_depend_on_the_lengths():
    unit_a, unit_b = A / norms(A)[:, None, None, None], B / norms(B)[:, None, None, None]
    angle = np.arccos(np.sum(unit_a * unit_b, axis=(1, 2, 3)))[:, None, None, None]
    expected = np.sin(angle / 2) / np.sin(angle) * (A + B)
    np.testing.assert_allclose(interpolate(A, B, 0.5), expected, atol=1e-5)


def test_noises_in_one_direction():
    np.testing.assert_allclose(interpolate(A, A, 0.3), A, atol=1e-6)
    np.testing.assert_allclose(interpolate(A, 3 * A, 0.5), 2 * A, rtol=1e-5)


def test_wrong_arguments():
    for a, b, fraction, where in ((A[0], B, 0, 'a'), (A, B[:2], 0, 'b'), (A, B, [0, 1], 'fraction')):
        with refused(where):
            interpolate(a, b, fraction)

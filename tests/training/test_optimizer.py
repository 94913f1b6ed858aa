import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training.optimizer import learning_rate, make_optimizer, update_ema
from tests.tiny import TRAIN


@pytest.mark.parametrize(
    ('schedule', 'warmup', 'expected'),
    [
        ('constant', 0, {0: 1.0, 7: 1.0}),
        ('linear', 0, {0: 1.0, 1: 0.9, 9: 0.1, 10: 0.0}),
        ('cosine', 0, {0: 1.0, 5: 0.5, 10: 0.0}),
        ('constant', 4, {0: 0.0, 1: 0.25, 4: 1.0, 9: 1.0}),
        ('linear', 5, {0: 0.0, 5: 1.0, 6: 0.8, 10: 0.0}),
    ],
)
def test_learning_rate(schedule, warmup, expected):
    config = dataclasses.replace(
        TRAIN, num_steps=10, learning_rate=1.0, learning_rate_schedule=schedule, warmup_steps=warmup
    )
    rate = learning_rate(config)
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6)


def test_clipping_bounds_the_gradient_that_adam_sees():
    gradient = {'p': jnp.asarray([30.0, 40.0])}
    params = {'p': jnp.zeros(2)}

    def first_moment(clip_norm):
        optimizer = make_optimizer(dataclasses.replace(TRAIN, clip_norm=clip_norm))
        _, state = optimizer.update(gradient, optimizer.init(params), params)
        return optax.tree.get(state, 'mu')['p']

    np.testing.assert_allclose(first_moment(0.0), [3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(first_moment(1.0), [0.06, 0.08], rtol=1e-6)


def test_averages_of_several_rates():
    ema = {'0.5': {'p': jnp.zeros(3)}, '0.9': {'p': jnp.zeros(3)}}
    ema = update_ema(ema, {'p': jnp.ones(3)}, 1, warmup=False)
    np.testing.assert_allclose(ema['0.5']['p'], 0.5)
    np.testing.assert_allclose(ema['0.9']['p'], 0.1, rtol=1e-6)


def test_warmup_lowers_the_rate_of_early_steps_only():
    start = {'0.99': {'p': jnp.zeros(1)}}
    early = update_ema(start, {'p': jnp.ones(1)}, 1, warmup=True)
    late = update_ema(start, {'p': jnp.ones(1)}, 10_000, warmup=True)
    np.testing.assert_allclose(early['0.99']['p'], 1 - 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(late['0.99']['p'], 0.01, rtol=1e-5)

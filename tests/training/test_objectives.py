"""What a diffusion model and an upsampler are trained to do, against the formula by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.diffusion.process import add_noise
from diffusion_jax.diffusion.schedules import row, schedule_of, transitions
from diffusion_jax.training.objectives import (
    Objective,
    classifier_objective,
    diffusion_objective,
    draw_noise,
)
from diffusion_jax.training.step import init_state, make_train_step
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, TRAIN, UPSAMPLER

SIZE = 4
DROPPING = diffusion_objective(dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.25), DIFFUSION)


def inputs():
    x_0, eps = jax.random.normal(jax.random.key(0), (2, SIZE, 8, 8, 1))
    return {'x_0': x_0, 'eps': eps, 't': jnp.asarray([0, 30, 60, 99]), 'y': jnp.arange(SIZE)}


def random_params(config):
    return jax.tree.map(
        lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        models.param_shapes(config),
    )


def boxes(x):
    """Means over 2×2 pixels."""
    return x.reshape(SIZE, 4, 2, 4, 2, 1).mean(axis=(2, 4))


@pytest.mark.parametrize(
    ('config', 'low_res_size'), [(CONDITIONAL_UNET, None), (UPSAMPLER, (4, 4))], ids=['classes', 'upsampler']
)
def test_the_network_sees_its_conditioning(config, low_res_size):
    """The mean squared error of eps is that of a call of the network by hand."""
    drawn, params = inputs(), random_params(config)
    values = jax.jit(diffusion_objective(config, DIFFUSION, low_res_size).losses)(params, drawn, None)
    transition = row(transitions(schedule_of(DIFFUSION)), drawn['t'])
    x_t = add_noise(drawn['x_0'], drawn['eps'], transition.level)
    y, low_res = (None, boxes(drawn['x_0'])) if config.low_res else (drawn['y'], None)
    output = models.apply(config, params, x_t, transition.level.t, y, low_res=low_res)
    expected = np.mean((output[..., :1] - drawn['eps']) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(values['mse'], expected, rtol=1e-4)


def test_accuracy():
    """With a head whose output is its bias: y has rank 0, 1, … among the logits."""
    params, drawn = random_params(CLASSIFIER), inputs() | {'y': jnp.asarray([7, 2, 6, 5])}
    head = params['head']['pool']['out']
    head['kernel'] = jnp.zeros_like(head['kernel'])
    head['bias'] = jnp.zeros(10).at[jnp.array([7, 2, 0, 1, 6, 5])].set(jnp.arange(6.0, 0, -1))
    values = classifier_objective(CLASSIFIER, DIFFUSION).losses(params, drawn, None)
    assert values['accuracy'].tolist() == [1, 0, 0, 0]
    assert values['accuracy_top5'].tolist() == [1, 1, 1, 0]
    log_p = jax.nn.log_softmax(head['bias'])
    np.testing.assert_allclose(values['loss'], -log_p[drawn['y']], rtol=1e-5)


def test_the_small_image_carries_a_gradient():
    losses, drawn = diffusion_objective(UPSAMPLER, DIFFUSION, (4, 4)).losses, inputs()
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(losses(params, drawn, None)['loss'])))
    kernel = gradient(random_params(UPSAMPLER))['encoder']['block_0']['conv']['kernel']
    noisy, small = np.abs(kernel).max(axis=(0, 1, 3))
    assert noisy > 1e-4 and small > 1e-4


def batch_of(size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)
    return {'image': images, 'label': (np.arange(size) % 10).astype(np.int32)}


def test_label_dropout_changes_labels_alone():
    """Each becomes the null class with the given probability; all else is what it is without."""
    key, batch, t = jax.random.key(1), batch_of(10_000), jnp.zeros(10_000, jnp.int32)
    drawn, plain = DROPPING.draw(key, batch, t), draw_noise(key, batch, t)
    dropped = np.asarray(drawn['y'] == models.NULL_CLASS)
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / 10_000) ** 0.5
    assert drawn['y'].dtype == jnp.int32
    np.testing.assert_array_equal(drawn['y'][~dropped], batch['label'][~dropped])
    for name in ('x_0', 'eps', 't'):
        np.testing.assert_array_equal(drawn[name], plain[name])
    np.testing.assert_array_equal(DROPPING.draw(key, batch, t)['y'], drawn['y'])
    assert np.any(DROPPING.draw(jax.random.key(2), batch, t)['y'] != drawn['y'])


def test_without_label_dropout_nothing_more_is_drawn():
    arguments = jax.random.key(0), batch_of(SIZE), jnp.zeros(SIZE, jnp.int32)
    draw = diffusion_objective(CONDITIONAL_UNET, DIFFUSION).draw
    assert str(jax.make_jaxpr(draw)(*arguments)) == str(jax.make_jaxpr(draw_noise)(*arguments))


def test_every_microbatch_has_the_labels_of_the_whole_batch():
    """A loss that is the mean of the images whose labels were dropped."""

    def losses(params, inputs, key):
        dropped = inputs['y'] == models.NULL_CLASS
        return {'loss': params['w'] * dropped * inputs['x_0'].mean(axis=(1, 2, 3))}

    objective, sums = Objective(DROPPING.draw, losses, DIFFUSION.num_timesteps), []
    for microbatches in (1, 2, 4):
        config = dataclasses.replace(TRAIN, microbatches=microbatches)
        state = init_state({'w': jnp.ones(())}, config, objective.num_timesteps, jax.random.key(0))
        _, metrics = jax.jit(make_train_step(objective, config))(state, batch_of(16))
        sums.append(float(metrics['loss'][0]))
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-5) and sums[0]


def test_dropped_labels_train_no_embedding():
    params, inputs_ = random_params(CONDITIONAL_UNET), inputs() | {'y': jnp.asarray([3, -1, -1, -1])}
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(DROPPING.losses(params, inputs_, None)['loss'])))
    rows = np.abs(gradient(params)['label_embedding']['embedding']).max(axis=1)
    assert np.flatnonzero(rows).tolist() == [3]


def test_noise_on_the_small_image():
    """The network sees √(1−s²)·z + s·eps with s between the limits; all else is as without."""
    noisy = diffusion_objective(UPSAMPLER, DIFFUSION, (4, 4), (0.2, 0.6))
    plain = diffusion_objective(UPSAMPLER, DIFFUSION, (4, 4))
    batch, t, key = batch_of(2000), jnp.zeros(2000, jnp.int32), jax.random.key(0)
    drawn, without = noisy.draw(key, batch, t), plain.draw(key, batch, t)
    for name in without:
        np.testing.assert_array_equal(drawn[name], without[name])
    s, eps = np.asarray(drawn['low_res_noise']), np.asarray(drawn['low_res_eps'])
    assert 0.2 <= s.min() < 0.21 and 0.59 < s.max() < 0.6 and abs(s.mean() - 0.4) < 0.01
    assert eps.shape == (2000, 4, 4, 1) and abs(eps.mean()) < 0.02 and abs(eps.std() - 1) < 0.02
    assert abs(np.corrcoef(eps.ravel(), boxes_of(drawn['eps']).ravel())[0, 1]) < 0.02

    params, inputs_ = random_params(UPSAMPLER), inputs()
    inputs_ |= {'low_res_noise': jnp.linspace(0.2, 0.6, SIZE), 'low_res_eps': jnp.asarray(eps[:SIZE])}
    values = jax.jit(noisy.losses)(params, inputs_, None)
    transition = row(transitions(schedule_of(DIFFUSION)), inputs_['t'])
    x_t = add_noise(inputs_['x_0'], inputs_['eps'], transition.level)
    s = np.linspace(0.2, 0.6, SIZE).reshape(-1, 1, 1, 1)
    low_res = np.sqrt(1 - s**2) * boxes(inputs_['x_0']) + s * eps[:SIZE]
    output = models.apply(UPSAMPLER, params, x_t, transition.level.t, None, low_res=low_res)
    expected = np.mean((output[..., :1] - inputs_['eps']) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(values['mse'], expected, rtol=1e-4)


def boxes_of(x):
    """Means over 2×2 pixels of any number of images."""
    return np.asarray(x).reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))


def test_a_factor_of_three_and_images_that_are_not_square():
    """x_0 is [B, 6, 12, 1], reduced by 3 and by 2 to [B, 2, 6, 1]."""
    config = dataclasses.replace(UPSAMPLER, image_size=(6, 12))
    x_0 = jax.random.normal(jax.random.key(0), (SIZE, 6, 12, 1))
    drawn, params = inputs() | {'x_0': x_0, 'eps': x_0[::-1]}, random_params(UPSAMPLER)
    values = jax.jit(diffusion_objective(config, DIFFUSION, (2, 6)).losses)(params, drawn, None)
    transition = row(transitions(schedule_of(DIFFUSION)), drawn['t'])
    x_t = add_noise(x_0, drawn['eps'], transition.level)
    small = np.asarray(x_0).reshape(SIZE, 2, 3, 6, 2, 1).mean(axis=(2, 4))
    output = models.apply(config, params, x_t, transition.level.t, None, low_res=small)
    np.testing.assert_allclose(
        values['mse'], np.mean((output[..., :1] - drawn['eps']) ** 2, axis=(1, 2, 3)), rtol=1e-4
    )

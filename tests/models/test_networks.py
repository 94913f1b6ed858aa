"""UNet and classifier behind init and apply."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion_jax.models import (
    NETWORKS,
    NULL_CLASS,
    ClassifierConfig,
    UNetConfig,
    apply,
    apply_with_attention,
    attention,
    attention_blocks,
    init,
    param_shapes,
)
from diffusion_jax.models.config import POOLS
from diffusion_jax.models.layout import make_layout
from diffusion_jax.models.normalization import GroupNorm
from tests.jaxprs import equations

TINY = dict(
    image_size=(8, 12),
    image_channels=2,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_head_channels=16,
    dropout=0.5,
)
UNET = UNetConfig(**TINY, out_channels=5, num_classes=3)
CLASSIFIER = ClassifierConfig(**TINY, num_classes=7)
# One level, for what takes several compilations.
SMALL = dataclasses.replace(CLASSIFIER, image_size=(4, 4), channel_mult=(1,), pool='adaptive')
T = np.array([0.0, 500.5], np.float32)
Y = np.array([0, 2])

run = jax.jit(apply, static_argnums=0)


def images(height=8, width=12, channels=2):
    return np.random.default_rng(0).standard_normal((2, height, width, channels)).astype(np.float32)


def random_params(config):
    """Parameters without zeros: initially every residual path is closed."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) + 1)).astype(
            np.float32
        ),
        param_shapes(config),
    )


@pytest.fixture(scope='module')
def params():
    return random_params(UNET)


@pytest.fixture(scope='module')
def small_params():
    return random_params(SMALL)


@pytest.fixture(scope='module')
def output(params):
    return run(UNET, params, images(), T, Y)


def test_init():
    config = dataclasses.replace(UNET, image_size=(4, 4), channel_mult=(1,), attention_resolutions=())
    initial = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    shapes = param_shapes(config)
    assert jax.tree.structure(initial) == jax.tree.structure(shapes)
    for leaf, shape in zip(jax.tree.leaves(initial), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, jnp.float32)
    for path, _ in jax.tree.leaves_with_path(initial):
        assert all(type(part) is jax.tree_util.DictKey and isinstance(part.key, str) for part in path)

    middle = initial['middle']
    for closed in (middle['residual_in']['conv_out'], middle['attention']['out'], initial['conv_out']):
        assert not np.any(closed['kernel']) and not np.any(closed['bias'])
    np.testing.assert_array_equal(middle['residual_in']['norm_in']['scale'], 1)
    np.testing.assert_allclose(np.std(initial['label_embedding']['embedding']), 1, rtol=0.15)
    kernels = [leaf for leaf in jax.tree.leaves(initial) if leaf.ndim == 4 and np.any(leaf)]
    assert len({float(kernel[0, 0, 0, 0]) for kernel in kernels}) == len(kernels), 'one key, two kernels'


def test_sizes_channels_and_classes(params, output):
    assert (output.shape, output.dtype) == ((2, 8, 12, 5), jnp.float32)
    assert not np.allclose(output, run(UNET, params, images(), T, np.array([1, 1]))), 'labels have no effect'
    assert not np.allclose(output, run(UNET, params, images(), T + 100, Y)), 'time has no effect'


def test_the_null_class_adds_no_embedding(params, output):
    """The same numbers as with an embedding of zeros, also next to an example with a class."""
    zeros = {'embedding': np.zeros_like(params['label_embedding']['embedding'])}
    without = run(UNET, params | {'label_embedding': zeros}, images(), T, Y)
    assert not np.allclose(without, output)
    np.testing.assert_array_equal(run(UNET, params, images(), T, np.array([NULL_CLASS, NULL_CLASS])), without)
    mixed = run(UNET, params, images(), T, np.array([Y[0], NULL_CLASS]))
    np.testing.assert_array_equal(mixed, np.stack([output[0], without[1]]))


def test_image_size_is_not_fixed(params):
    shape = jax.eval_shape(functools.partial(apply, UNET), params, images(6, 16), T, Y).shape
    assert shape == (2, 6, 16, 5)


def test_examples_do_not_see_each_other(params, output):
    x = images()
    x[1] = 0
    np.testing.assert_allclose(run(UNET, params, x, T, Y)[0], output[0], rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key(small_params):
    x = images(4, 4)
    plain = run(SMALL, small_params, x, T)
    dropped = run(SMALL, small_params, x, T, key=jax.random.key(0))
    np.testing.assert_array_equal(dropped, run(SMALL, small_params, x, T, key=jax.random.key(0)))
    assert not np.allclose(dropped, plain)
    assert not np.allclose(dropped, run(SMALL, small_params, x, T, key=jax.random.key(1)))


def test_every_residual_block_draws_its_own_dropout(params):
    jaxpr = jax.make_jaxpr(functools.partial(apply, UNET))(params, images(), T, Y, key=jax.random.key(0))
    assert count(jaxpr, 'random_bits') == len([layer for layer in layers(UNET) if layer.kind == 'residual'])
    folds = [eqn.invars[1].val for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == 'random_fold_in']
    layout = make_layout(UNET)
    assert sorted(folds) == list(range(len(layout.encoder) + 1 + len(layout.decoder)))


def test_rescaled_residuals_change_the_output(small_params):
    rescaled = dataclasses.replace(SMALL, rescale_residual=True)
    x = images(4, 4)
    assert not np.allclose(run(rescaled, small_params, x, T), run(SMALL, small_params, x, T), rtol=0.1)


def test_bfloat16_computes_close_to_float32(small_params):
    x = images(4, 4)
    half = run(dataclasses.replace(SMALL, dtype='bfloat16'), small_params, x, T)
    full = run(SMALL, small_params, x, T)
    assert half.dtype == jnp.float32
    assert 1e-4 < np.linalg.norm(half - full) / np.linalg.norm(full) < 0.03


def test_bfloat16_is_for_all_convolutions_and_the_result_is_float32(params):
    config = dataclasses.replace(UNET, dtype='bfloat16')
    jaxpr = jax.make_jaxpr(functools.partial(apply, config))(params, images(), T, Y)
    convolutions = [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == 'conv_general_dilated']
    assert {eqn.outvars[0].aval.dtype for eqn in convolutions} == {jnp.dtype('bfloat16')}
    assert jaxpr.out_avals[0].dtype == jnp.float32


def test_tensorfloat32_is_a_precision_of_products(params):
    config = dataclasses.replace(UNET, dtype='tensorfloat32')
    jaxpr = jax.make_jaxpr(functools.partial(apply, config))(params, images(), T, Y)
    products = [
        eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name in ('conv_general_dilated', 'dot_general')
    ]
    high = [eqn for eqn in products if eqn.params['precision'] == (jax.lax.Precision.HIGH,) * 2]
    assert {str(eqn.outvars[0].aval.dtype) for eqn in products} == {'float32'}
    # Only the embedding is in float32: two linear maps, and one in every residual block.
    residual = [layer for layer in layers(UNET) if layer.kind == 'residual']
    assert len(products) - len(high) == 2 + len(residual)


def test_bfloat16_parameters_stay_float32():
    shapes = param_shapes(dataclasses.replace(UNET, dtype='bfloat16'))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


def test_remat_recomputes_residual_and_attention_blocks_only_when_asked(params):
    for config, expected in (
        (UNET, 0),
        (
            dataclasses.replace(UNET, remat=True),
            len([layer for layer in layers(UNET) if layer.kind in ('residual', 'attention')]),
        ),
    ):
        jaxpr = jax.make_jaxpr(functools.partial(apply, config))(params, images(), T, Y)
        assert count(jaxpr, *CHECKPOINT) == expected


def test_remat_changes_no_number(small_params):
    x, key = images(4, 4), jax.random.key(3)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(config, params):
        return jax.grad(lambda params: jnp.sum(apply(config, params, x, T, key=key) ** 2))(params)

    stored = gradient(SMALL, small_params)
    # The backward pass must compute the same dropout again.
    recomputed = gradient(dataclasses.replace(SMALL, remat=True), small_params)
    for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max() + 1e-6)


def enlarged(x, axis):
    """Twice as long by linear interpolation: every new pixel is a quarter of a pixel from an old one."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    pairs = np.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=1)
    return np.moveaxis(pairs.reshape(-1, *x.shape[1:]), 0, axis)


def test_upsampler_enlarges_bilinearly():
    config = UNetConfig(**TINY | dict(image_size=(8, 8), channel_mult=(1,)), low_res=True, out_channels=2)
    params, x, low_res = random_params(config), images(8, 8), images(4, 4)
    output = run(config, params, x, T, low_res=low_res)
    assert output.shape == (2, 8, 8, 2)
    same = run(config, params, x, T, low_res=enlarged(enlarged(low_res, 1), 2))
    np.testing.assert_allclose(same, output, rtol=1e-4, atol=1e-4)
    assert not np.allclose(output, run(config, params, x, T, low_res=-low_res))


@pytest.mark.parametrize('network', [UNET, *(dataclasses.replace(CLASSIFIER, pool=pool) for pool in POOLS)])
def test_every_normalization_has_the_groups_of_the_config(network):
    config = dataclasses.replace(network, norm_groups=16)
    built = nnx.eval_shape(lambda: NETWORKS[type(config)](config, rngs=nnx.Rngs(0)))
    assert {node.groups for _, node in nnx.iter_graph(built) if isinstance(node, GroupNorm)} == {16}


@pytest.mark.parametrize('pool', POOLS)
def test_classifier(pool):
    config = dataclasses.replace(CLASSIFIER, pool=pool, image_size=(4, 8), channel_mult=(1,))
    params, x = random_params(config), images(4, 8)
    logits = run(config, params, x, T)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert np.ptp(logits, axis=1).min() > 1e-3
    shape = jax.eval_shape(functools.partial(apply, config), params, x, T, Y).shape
    assert shape == (2, 7), 'a classifier does not mind labels'


def test_spatial_heads_take_any_size():
    config = dataclasses.replace(CLASSIFIER, pool='spatial')
    logits = jax.eval_shape(functools.partial(apply, config), param_shapes(config), images(6, 16), T)
    assert logits.shape == (2, 7)


# What jax.checkpoint is called in a jaxpr, in one version of JAX or another.
CHECKPOINT = ('checkpoint', 'remat', 'remat2')


def layers(config):
    layout = make_layout(config)
    return [layer for block in (*layout.encoder, layout.middle, *layout.decoder) for layer in block]


def count(closed, *names):
    return sum(eqn.primitive.name in names for eqn in equations(closed.jaxpr))


def test_identity_replaces_the_attention_of_the_named_blocks(params, monkeypatch):
    names = attention_blocks(UNET)
    assert names == ('encoder.3', 'middle', 'decoder.0', 'decoder.1')
    usual = apply(UNET, params, images(), T, Y)
    each = [apply(UNET, params, images(), T, Y, identity=(name,)) for name in names]
    for i, output in enumerate(each):
        assert all(np.abs(output - other).max() > 1e-3 for other in (usual, *each[:i]))
    every = apply(UNET, params, images(), T, Y, identity=names)
    np.testing.assert_array_equal(apply(UNET, params, images(), T, Y), usual)
    monkeypatch.setattr(attention, 'attend', lambda q, k, v, precision: v.reshape(*v.shape[:2], -1))
    np.testing.assert_allclose(apply(UNET, params, images(), T, Y), every, atol=1e-5)


def test_one_pixel_attends_to_itself_anyway(params):
    x = images(2, 2)
    identity = attention_blocks(UNET)
    usual = apply(UNET, params, x, T, Y)
    np.testing.assert_allclose(apply(UNET, params, x, T, Y, identity=identity), usual, atol=1e-5)


def test_the_attention_that_pixels_receive(params, monkeypatch):
    recorded = []

    def noted(q, k, precision):
        recorded.append(weights(q, k, precision))
        return recorded[-1]

    weights = attention.attention_weights
    output, received = apply_with_attention(UNET, params, images(), T, Y)
    np.testing.assert_allclose(output, apply(UNET, params, images(), T, Y), atol=1e-5)
    monkeypatch.setattr(attention, 'attention_weights', noted)
    apply(UNET, params, images(), T, Y)
    middle = np.asarray(recorded[1])  # [B, heads, pixels that attend, pixels]
    np.testing.assert_allclose(received, middle.mean(axis=1).sum(axis=1).reshape(2, 4, 6), rtol=1e-4)
    np.testing.assert_allclose(received.mean(axis=(1, 2)), 1, rtol=1e-5)

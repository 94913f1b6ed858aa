import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.sharding import (
    MIN_SHARDED_SIZE,
    abstract_on,
    batch_sharding,
    check_batch_size,
    gather_in_step,
    make_mesh,
    param_shardings,
    put_batch,
    replicated,
)


@pytest.mark.parametrize(
    ('sizes', 'shape'), [((), (8, 1)), ((-1, 4), (2, 4)), ((2, 4), (2, 4)), ((1, 8), (1, 8)), ((8,), (8, 1))]
)
def test_mesh(sizes, shape):
    mesh = make_mesh(*sizes)
    assert mesh.axis_names == ('data', 'fsdp')
    assert mesh.devices.shape == shape


def test_mesh_of_some_devices():
    assert make_mesh(devices=jax.devices()[:1]).devices.shape == (1, 1)


@pytest.mark.parametrize('sizes', [(3, 1), (-1, 3), (2, 2), (0, 1), (-1, 0), (-2, -4), (16, 1), (-1, 16)])
def test_mesh_must_use_every_device_once(sizes):
    with pytest.raises(UserError) as error:
        make_mesh(*sizes)
    assert error.value.where == 'config.mesh' and '8' in error.value.remedy
    assert error.value.problem == 'got data={}, fsdp={}'.format(*sizes)


def test_batch_lies_on_all_devices():
    mesh = make_mesh(fsdp=2)
    batch = {'image': np.arange(16 * 3, dtype=np.uint8).reshape(16, 3), 'label': np.arange(16)}
    placed = put_batch(mesh, batch)
    assert all(leaf.sharding == batch_sharding(mesh) for leaf in placed.values())
    assert {shard.data.shape for shard in placed['image'].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed['image'], batch['image'])
    np.testing.assert_array_equal(placed['label'], batch['label'])


def test_batch_size_must_be_divisible_by_the_devices():
    check_batch_size(make_mesh(fsdp=2), 16, 'train.batch_size')
    with pytest.raises(UserError) as error:
        check_batch_size(make_mesh(fsdp=2), 12, 'train.batch_size')
    assert (error.value.where, error.value.problem) == ('config.train.batch_size', 'got 12')


@pytest.mark.parametrize(
    ('shape', 'shard'),
    [
        ((3, 3, 64, 128), (3, 3, 64, 32)),
        ((3, 3, 128, 64), (3, 3, 32, 64)),
        ((3, 3, 64, 64), (3, 3, 64, 16)),
        ((64, 64), (64, 16)),
        ((4096, 2), (1024, 2)),
        ((4, 4097), (1, 4097)),
        ((4095,), (4095,)),
        ((5001, 3), (5001, 3)),
        ((64, 32), (64, 32)),
        ((), ()),
    ],
)
def test_parameters_are_split_along_their_largest_divisible_axis(shape, shard):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert param_shardings(make_mesh(fsdp=4), leaf).shard_shape(shape) == shard
    assert param_shardings(make_mesh(), leaf) == replicated(make_mesh())


@given(st.lists(st.integers(1, 130), max_size=4).map(tuple), st.sampled_from([1, 2, 4, 8]))
def test_every_shape_has_a_sharding(shape, ways):
    part = param_shardings(make_mesh(fsdp=ways), jax.ShapeDtypeStruct(shape, jnp.float32)).shard_shape(shape)
    divisible = np.prod(shape) >= MIN_SHARDED_SIZE and any(size % ways == 0 for size in shape)
    assert np.prod(part) * (ways if divisible else 1) == np.prod(shape)


def test_arrays_that_are_only_described_lie_as_real_ones():
    mesh = make_mesh(fsdp=4)
    tree = {'kernel': jnp.zeros((3, 3, 16, 32)), 'bias': jnp.zeros((32,), jnp.bfloat16)}
    shardings = param_shardings(mesh, tree)
    described = abstract_on(shardings, tree)
    assert jax.tree.map(lambda a: a.sharding, described) == shardings
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(described)] == [
        (a.shape, a.dtype) for a in jax.tree.leaves(tree)
    ]
    whole = abstract_on(replicated(mesh), tree)
    assert {a.sharding for a in jax.tree.leaves(whole)} == {replicated(mesh)}


def test_sharded_gradient_is_the_gradient():
    mesh = make_mesh(fsdp=4)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {'kernel': jax.random.normal(keys[0], (3, 3, 16, 32)), 'bias': jax.random.normal(keys[1], (32,))}
    x = jax.random.normal(keys[2], (8, 4, 4, 16))

    def loss(params, x):
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        y = jax.lax.conv_general_dilated(x, params['kernel'], (1, 1), 'SAME', dimension_numbers=dimensions)
        return jnp.mean(jnp.tanh(y + params['bias']) ** 2)

    shardings = param_shardings(mesh, params)
    sharded = jax.jit(jax.grad(gather_in_step(mesh, loss)))(
        jax.device_put(params, shardings), put_batch(mesh, np.asarray(x))
    )
    assert sharded['kernel'].sharding.shard_shape((3, 3, 16, 32)) == (3, 3, 16, 8)
    for name, gradient in jax.jit(jax.grad(loss))(params, x).items():
        np.testing.assert_allclose(sharded[name], gradient, rtol=1e-5, atol=1e-7)

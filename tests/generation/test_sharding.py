"""Sampling with parameters that are split over devices: the same images, and never all parameters at once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM
from diffusion_jax.generation import Generator, requests, sampling
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.program import jitted, sample_program
from diffusion_jax.planning.collectives import exchanged
from diffusion_jax.program import Program
from diffusion_jax.sharding import (
    MIN_SHARDED_SIZE,
    gather_params,
    local_mesh,
    make_mesh,
    param_shardings,
    put_batch,
)
from experiments.benchmarking.programs import drawn_params
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION

RECIPE = Recipe(DDIM(), (ClassifierGuidance(2.0),), 'ddim5')
NETWORKS = Networks(CONDITIONAL_UNET, DIFFUSION, CLASSIFIER)
LABELS = np.arange(8) % 10
# A computation of the compiled program and all-gathers in it, each with its result.
COMPUTATION = re.compile(r'^(ENTRY )?%?(\S+) .*\{$', re.MULTILINE)
GATHER = re.compile(r'= \w+\[([\d,]*)\]\S* all-gather(?:-start)?\(')


@functools.cache
def params():
    return {'diffusion': drawn_params(CONDITIONAL_UNET), 'classifier': drawn_params(CLASSIFIER)}


def split_mesh():
    return make_mesh(data=2, fsdp=4)


@functools.cache
def model(*sizes):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    placed = jax.device_put(params(), param_shardings(mesh, params()))
    return Generator(CONDITIONAL_UNET, DIFFUSION, placed, mesh, CLASSIFIER, (('default', RECIPE),))


def gathers(program):
    """The sizes of what is gathered before a loop, and of what is gathered in it."""
    text = program.lower().compile().as_text()
    assert exchanged(text).keys() == {'all-gather'}
    found = {True: [], False: []}
    for computation in re.split(r'\n\n', text):
        header = COMPUTATION.search(computation)
        for shape in GATHER.findall(computation):
            found[bool(header[1])].append(int(np.prod([int(size) for size in shape.split(',') if size])))
    return found[True], found[False]


def split_sizes(*names):
    leaves = jax.tree.leaves([params()[name] for name in names])
    return sorted(leaf.size for leaf in leaves if leaf.size >= MIN_SHARDED_SIZE)


def test_split_parameters_sample_the_images_of_one_device():
    alone, split = (model(*sizes).sample(8, LABELS, floats=True) for sizes in ((1, 1), (2, 4)))
    np.testing.assert_allclose(split.x_0, alone.x_0, atol=1e-4)
    assert np.abs(split.images.astype(int) - alone.images).max() <= 1
    assert alone.images.std() > 10


def test_split_parameters_give_the_likelihood_of_one_device():
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype(np.uint8)
    alone, split = (
        model(*sizes).bits_per_dimension(images, LABELS, respacing='10') for sizes in ((1, 1), (2, 4))
    )
    for name, term in alone.items():
        np.testing.assert_allclose(split[name], term, rtol=1e-4, atol=1e-5)


def test_each_device_holds_its_part_alone():
    model(2, 4).sample(8, LABELS)
    for leaf in jax.tree.leaves(model(2, 4).params):
        ways = 4 if leaf.size >= MIN_SHARDED_SIZE else 1
        assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // ways}
    held = program_bytes(sample_program(NETWORKS, RECIPE, split_mesh(), 8))
    whole = program_bytes(sample_program(NETWORKS, RECIPE, make_mesh(), 8))
    assert held < 0.35 * whole


def program_bytes(program):
    """The arguments on one device."""
    return sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(program.arguments)
    )


def test_every_step_gathers_each_parameter_once():
    """Nothing is gathered before the loop, and in it no activation, image or noise."""
    before, inside = gathers(sample_program(NETWORKS, RECIPE, split_mesh(), 8))
    assert before == []
    assert sorted(inside) == split_sizes('diffusion', 'classifier')


def test_every_term_of_the_bound_gathers_each_parameter_once():
    model_, images = model(2, 4), np.zeros((8, 8, 8, 1), np.uint8)
    request, images, _ = requests.of_images(model_, images, LABELS, Recipe(respacing='10'))
    bound = jitted(sampling.bits_per_dimension, model_.networks)
    before, inside = gathers(Program(bound, (model_.params, request, images)))
    assert before == []
    assert sorted(inside) == split_sizes('diffusion')


@pytest.mark.parametrize('sizes', [(1, 1), (8, 1)])
def test_without_fsdp_there_is_no_barrier(sizes):
    mesh = make_mesh(*sizes, devices=jax.devices()[: sizes[0]])
    text = sample_program(NETWORKS, RECIPE, mesh, 8).lower().as_text()
    assert 'barrier' not in text
    assert 'barrier' in sample_program(NETWORKS, RECIPE, split_mesh(), 8).lower().as_text()


def test_programs_are_compiled_for_what_a_generator_calls_them_with():
    generator = model(2, 4)
    program = sample_program(NETWORKS, RECIPE, generator.mesh, 8)
    request = generator.request(8, LABELS)
    carry = jitted(sampling.start, generator.networks)(generator.params, request)
    assert program.jitted is jitted(sampling.advance, generator.networks)
    given = jax.tree.leaves((generator.params, request, carry))
    assert len(given) == len(jax.tree.leaves(program.arguments[:3]))
    for leaf, expected in zip(given, jax.tree.leaves(program.arguments[:3]), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)


def test_gradients_pass_the_gathering():
    mesh = split_mesh()
    kernel, x = np.random.default_rng(0).standard_normal((2, 64, 64), np.float32)

    def loss(kernel, x, mesh):
        return jnp.mean(jnp.tanh(x @ gather_params(mesh, kernel, x)) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    split = gradients(jax.device_put(kernel, param_shardings(mesh, kernel)), put_batch(mesh, x), mesh)
    for one, other in zip(split, gradients(kernel, x, None), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ('sizes', 'num_local', 'expected'),
    [((8, 1), 4, (4, 1)), ((4, 2), 4, (2, 2)), ((2, 4), 4, (1, 4)), ((1, 8), 4, (1, 4)), ((2, 4), 6, (1, 6))],
)
def test_a_host_keeps_fsdp_among_its_devices(sizes, num_local, expected, monkeypatch):
    mesh = make_mesh(*sizes)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:num_local])
    assert local_mesh(mesh).devices.shape == expected

"""Networks, samples and training steps on the device: the authors' numbers, and those of the CPU."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.generation import Generator
from diffusion_jax.sharding import make_mesh, put_batch
from diffusion_jax.training.program import first_state, train_program
from tests.parity.models import CHECKS, conditioning, load_network, to_nhwc
from tests.test_golden import GOLDEN_DIR, Case
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, TRAIN
from tests.training.test_step import batch_of, objective_of, params_of

NETWORKS = [
    (check, case)
    for case in map(Case, sorted(GOLDEN_DIR.glob('*.json')))
    for check in CHECKS
    if check.family == 'networks' and check.recognize(case)
]
HALF = ['unet_u1_adm_cond', 'classifier_attention']


def at_once(function, *arguments):
    """`function` of each of the arguments, in threads: programs compile beside each other."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, *arguments))


def test_the_golden_networks_in_float32(devices):
    """Outputs and gradients within the tolerances that hold on CPUs."""

    def failure(check, case):
        try:
            with jax.default_device(devices[0]):
                check.run(case)
        except AssertionError as error:
            return f'{case.name}: {error}'

    assert len(NETWORKS) > 10
    failures = [text for text in at_once(failure, *zip(*NETWORKS, strict=True)) if text]
    assert not failures, '\n'.join(failures)


def outputs(name, dtype, device):
    """What a golden network computes, and the gradient by x of the sum of its squares."""
    case = Case(GOLDEN_DIR / f'{name}.json')
    config, params = load_network(case.sibling(case.meta['weights']))
    config, inputs = dataclasses.replace(config, dtype=dtype), conditioning(case)
    inputs = inputs if hasattr(config, 'out_channels') else {}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(x, params, t):
        out = models.apply(config, params, x, t, **inputs)
        return jnp.sum(out**2), out

    with jax.default_device(device):
        gradient, out = run(to_nhwc(case.arrays['x']), params, case.arrays['t'])
        return np.asarray(out), np.asarray(gradient)


def test_bfloat16_is_as_near_to_float32_as_on_the_cpu(devices):
    asked = [(name, dtype, device) for name in HALF for dtype in models.config.DTYPES for device in devices]
    found = dict(zip(asked, at_once(outputs, *zip(*asked, strict=True)), strict=True))
    for name in HALF:
        errors = {}
        for device in devices:
            exact, rounded = (found[name, dtype, device] for dtype in ('float32', 'bfloat16'))
            errors[device] = np.array(
                [np.std(b - a) / np.std(a) for a, b in zip(exact, rounded, strict=True)]
            )
        ours, cpus = (errors[device] for device in devices)
        print(f'{name}: {ours} on the device, {cpus} on the CPU')
        assert (ours > 0).all() and (ours < 1.25 * cpus).all(), name


@pytest.mark.parametrize(('sampler', 'respacing'), [('ddpm', '10'), ('ddim', 'ddim10')])
def test_guided_samples_are_those_of_the_cpu(devices, sampler, respacing):
    params = {'diffusion': params_of(CONDITIONAL_UNET), 'classifier': params_of(CLASSIFIER)}
    params = jax.device_get(params)
    how = {'sampler': sampler, 'respacing': respacing, 'scale': 2.0, 'floats': True}

    def samples(device):
        with jax.default_device(device):
            mesh, on_device = make_mesh(1, 1, [device]), jax.device_put(params, device)
            model = Generator(CONDITIONAL_UNET, DIFFUSION, on_device, mesh, CLASSIFIER)
            return model.sample(4, [0, 1, 2, 3], **how)

    ours, cpus = at_once(samples, devices)
    assert np.std(cpus.x_0) > 0.1
    np.testing.assert_allclose(ours.x_0, cpus.x_0, atol=1e-3)
    assert np.abs(ours.images.astype(int) - cpus.images).max() <= 1


@pytest.mark.parametrize('network', [CONDITIONAL_UNET, CLASSIFIER], ids=['diffusion', 'classifier'])
def test_a_training_is_that_of_the_cpu(devices, network):
    params, objective = jax.device_get(params_of(network)), objective_of(network)

    def losses(device):
        with jax.default_device(device):
            mesh, key = make_mesh(1, 1, [device]), jax.random.key(0)
            program = train_program(objective, network, TRAIN, mesh)
            state, found = first_state(objective, network, TRAIN, program.arguments[0], key, params), []
            for step in range(5):
                state, metrics = program.jitted(state, put_batch(mesh, batch_of(step)))
                found.append(float(metrics['loss'][0] / metrics['loss'][1]))
            return found

    ours, cpus = at_once(losses, devices)
    np.testing.assert_allclose(ours, cpus, rtol=1e-4)

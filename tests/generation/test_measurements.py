"""Measurements in recipes: rows go with their images, others compile nothing, bad ones are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    Blur,
    DiffPIR,
    Downsample,
    Mask,
    Measurement,
    PiGDM,
    REDDiff,
    RePaint,
    dense,
)
from diffusion_jax.generation import trajectory
from diffusion_jax.sharding import make_mesh
from tests.errors import refused
from tests.generation.shared import assert_equal, closeness, make_model
from tests.tiers import fast_for

RNG = np.random.default_rng(0)
MASK = Mask((RNG.random((8, 8, 1)) > 0.5).astype(np.float32))
TRUTH = RNG.uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
Y = TRUTH * MASK.mask
SMALLER = dense(lambda x: x[:, :2], (4, 4, 1))
SAMPLERS = {
    'dps': lambda m: {'sampler': DPS(m)},
    'dps squared': lambda m: {'sampler': DPS(m, squared=True)},
    'ddnm': lambda m: {'sampler': DDNM(m)},
    'ddnm ancestral': lambda m: {'sampler': DDNM(m, ancestral=True)},
    'ddrm': lambda m: {'sampler': DDRM(m)},
    'diffpir': lambda m: {'sampler': DiffPIR(m)},
    'reddiff': lambda m: {'sampler': REDDiff(m)},
    'daps': lambda m: {'sampler': DAPS(m, ode_steps=2, langevin_steps=3)},
    'repaint': lambda m: {'sampler': RePaint(m), 'respacing': 'repaint:5/2,2'},
    'pigdm': lambda m: {'sampler': 'ddim', 'guidance': PiGDM(m)},
}
VARIANTS = ('dps squared', 'ddnm ancestral')
each_method = pytest.mark.parametrize(
    'how',
    [
        pytest.param(how, id=name, marks=[pytest.mark.slow] * (name in VARIANTS))
        for name, how in SAMPLERS.items()
    ],
)


def sample(model, how, measurement, n, **changes):
    settings = {'respacing': '5', 'guidance': ''} | how(measurement) | changes
    return model.sample(n, **settings)


@each_method
def test_rows_are_apart_and_other_numbers_compile_nothing(model, how, compilations):
    first = sample(model, how, Measurement(MASK, Y, 0.1), 4)
    compilations.clear()
    is_third = np.arange(4)[:, None, None, None] == 2
    other = sample(model, how, Measurement(MASK, np.where(is_third, Y, -Y), 0.1), 4)
    assert_equal(first.images[2], other.images[2])
    assert (first.images[0] != other.images[0]).any()
    again = Mask(1 - np.asarray(MASK.mask))
    sample(model, how, Measurement(again, -TRUTH * again.mask, 0.2), 4, seed=3)
    assert compilations == []


@pytest.mark.parametrize('name', ['dps', 'ddrm'])
def test_an_image_does_not_depend_on_the_size_of_the_batch(model, name):
    all_images = sample(model, SAMPLERS[name], Measurement(MASK, Y, 0.1), 4)
    one = sample(model, SAMPLERS[name], Measurement(MASK, Y[2:3], 0.1), 1, first=2)
    assert closeness(all_images.images[2:3], one) <= 1


def test_one_number_for_each_image(model, compilations):
    for zeta, noise in ((0.3, 0.1), ([0.1, 0.2, 0.3, 1], [0, 0.1, 0.2, 0.3])):
        compilations.clear()
        how = lambda m: {'sampler': DPS(m, zeta=zeta)}  # noqa: B023, E731
        found = sample(model, how, Measurement(MASK, Y, noise), 4)
    assert compilations == [] and np.isfinite(found.images).all()


@pytest.mark.parametrize('name', fast_for(['dps', 'pigdm'], ['pigdm']))
def test_class_guidance_acts_too(model, name):
    how, measurement = SAMPLERS[name], Measurement(MASK, Y, 0.1)
    pigdm = how(measurement).get('guidance')
    both = ('classifier:scale=20', pigdm) if pigdm else 'classifier:scale=20'
    guided = sample(model, how, measurement, 4, y=3, guidance=both)
    assert (guided.images != sample(model, how, measurement, 4).images).any()


def test_ddnm_keeps_the_measurement(model):
    found = sample(model, SAMPLERS['ddnm'], Measurement(MASK, Y), 4, floats=True)
    np.testing.assert_allclose(found.x_0 * MASK.mask, Y, atol=1e-5)
    small = Downsample(2)
    y = np.asarray(small(TRUTH))
    found = sample(model, SAMPLERS['ddnm'], Measurement(small, y), 4, floats=True)
    np.testing.assert_allclose(small(found.x_0), y, atol=1e-5)


def test_functions_and_one_measurement_for_all_images(model):
    def left_half(x):
        return x[:, :, :4]

    same = Mask((np.arange(8) < 4).astype(np.float32)[None, :, None] * np.ones((8, 1, 1), np.float32))
    by_function = sample(model, SAMPLERS['ddnm'], Measurement(left_half, TRUTH[0, :, :4]), 4)
    by_mask = sample(model, SAMPLERS['ddnm'], Measurement(same, TRUTH[:1] * same.mask[None]), 4)
    assert closeness(by_function, by_mask) <= 1
    by_matrix = dense(left_half, (8, 8, 1))
    how = lambda m: {'sampler': DDRM(m, given_y=False)}  # noqa: E731
    assert (
        closeness(
            sample(model, how, Measurement(by_matrix, TRUTH[:, :, :4], 0.1), 4),
            sample(model, how, Measurement(same, TRUTH * same.mask, 0.1), 4),
        )
        <= 1
    )


def test_evaluations_of_every_method(model):
    numbers = {
        name: sample(model, how, Measurement(MASK, Y, 0.1), 4).evaluations for name, how in SAMPLERS.items()
    }
    assert numbers.pop('daps') == 10 and numbers.pop('repaint') == 9
    assert set(numbers.values()) == {5}


def test_records_and_images_to_start_from(model):
    measurement = Measurement(MASK, Y, 0.1)
    found = sample(model, SAMPLERS['repaint'], measurement, 4, record=trajectory)
    assert found.records.x_t.shape == (13, 4, 8, 8, 1)
    images = np.full((4, 8, 8, 1), 128, np.uint8)
    how = lambda m: {'sampler': DDRM(m, given_y=False)}  # noqa: E731
    assert sample(model, how, measurement, 4, images=images, start=2.0).evaluations < 5
    for name in ('ddrm', 'reddiff'):
        with refused('images', 'starts from the measurement'):
            sample(model, SAMPLERS[name], measurement, 4, images=images, start=2.0)
        with refused('images', 'starts from the measurement'):
            model.purify(images, sampler=SAMPLERS[name](measurement)['sampler'], start=2.0, respacing='5')


def test_grids_that_go_up_do_not_start_counts_again(model):
    """The step size of DAPS falls over all steps; μ of RED-diff and its moments are kept."""
    measurement, seen = Measurement(MASK, Y, 0.1), lambda state, *_: state.done
    for name in ('daps', 'reddiff'):
        how = {'respacing': 'travel:4/2,2', 'record': seen}
        done = sample(model, SAMPLERS[name], measurement, 4, **how).records
        np.testing.assert_array_equal(done, [0, 1, 2, 2, 3, 4, 5, 6, 6, 7])


@pytest.mark.skipif(jax.device_count() < 8, reason='needs several devices')
def test_rows_go_with_their_images_on_several_devices():
    one = make_model()
    mesh = make_mesh(8, 1)
    eight = dataclasses.replace(
        one, mesh=mesh, params=jax.device_put(one.params, jax.NamedSharding(mesh, jax.P()))
    )
    for operator in (MASK, Blur(np.full((8, 3), 1 / 24, np.float32)), Downsample(2)):
        y = np.asarray(operator(TRUTH)) if isinstance(operator, Downsample) else TRUTH * 0
        measurement = Measurement(operator, y[:3], [0.1, 0.2, 0.3])
        a, b = (sample(m, SAMPLERS['diffpir'], measurement, 3) for m in (one, eight))
        assert closeness(a, b) <= 1


def cases():
    nan = Y.copy()
    nan[1:, 0] = np.nan
    ddrm, dps, daps = SAMPLERS['ddrm'], SAMPLERS['dps'], SAMPLERS['daps']
    return {
        'shape': (dps, Measurement(Downsample(2), TRUTH), 'Measurement.y', (4, 8, 8, 1)),
        'factor': (dps, Measurement(Downsample(3), TRUTH), 'operator', 'factor 3', '8×8×1', 'divide'),
        'large factor': (dps, Measurement(Downsample(16), TRUTH), 'operator', 'factor 16', 'divide'),
        'mask': (dps, Measurement(Mask(np.ones((1, 7, 8, 1))), TRUTH), 'operator', '(1, 7, 8, 1)', '8×8×1'),
        'channels': (dps, Measurement(Mask(np.ones((8, 8, 3))), TRUTH), 'operator', '(1, 8, 8, 3)', '8×8×1'),
        'masks': (
            dps,
            Measurement(Mask(np.ones((3, 8, 8, 1))), TRUTH),
            'operator',
            '(3, 8, 8, 1)',
            '4 images',
        ),
        'kernel': (dps, Measurement(Blur(np.ones((9, 9))), TRUTH), 'operator', '(1, 9, 9)', '8×8×1'),
        'matrix': (ddrm, Measurement(SMALLER, TRUTH[:, :2]), 'operator', 'Dense', '(1, 8, 16)', '8×8×1'),
        'array': (SAMPLERS['ddnm'], TRUTH, 'DDNM.measurement', 'ndarray', 'Measurement('),
        'array in a guidance': (SAMPLERS['pigdm'], TRUTH, 'PiGDM.measurement', 'Measurement('),
        'no operator': (dps, Measurement(np.eye(8), TRUTH), 'Measurement.operator', 'ndarray'),
        'function': (dps, Measurement(lambda x: x @ np.ones(3), TRUTH), 'operator', 'FunctionOperator', '3'),
        'number of axes': (dps, Measurement(Mask(np.ones(8)), TRUTH), 'Mask.mask', (8,)),
        'not masked': (dps, Measurement(MASK, TRUTH), 'Measurement.y', 'mask'),
        'not finite': (dps, Measurement(MASK, nan), 'Measurement.y', 'from nan to nan'),
        'too large': (dps, Measurement(MASK, 1e300 * np.ones((4, 8, 8, 1))), 'Measurement.y', 'finite'),
        'uint8': (dps, Measurement(Downsample(2), np.full((4, 4, 1), 127, np.uint8)), 'Measurement.y', 127),
        'uint8 mask': (dps, Measurement(Mask(255 * MASK.mask), Y), 'Mask.mask', 255),
        'no factor': (dps, Measurement(Downsample(0), TRUTH), 'Downsample.factor', 0),
        'float factor': (dps, Measurement(Downsample(2.0), TRUTH), 'Downsample.factor', 2.0),
        'noise': (dps, Measurement(MASK, Y, -0.1), 'Measurement.noise', -0.1),
        'no noise': (daps, Measurement(MASK, Y), 'Measurement.noise', 'DAPS'),
        'spectrum': (ddrm, Measurement(lambda x: x[:, :4], TRUTH[:, :4]), 'operator', 'dense'),
        'linear': (SAMPLERS['ddnm'], Measurement(lambda x: x**2, TRUTH), 'operator', 'DPS'),
        'affine matrix': (ddrm, Measurement(dense(lambda x: x + 1, (8, 8, 1)), TRUTH), 'operator', 'linear'),
        'affine': (SAMPLERS['pigdm'], Measurement(lambda x: x + 1, TRUTH), 'operator', 'linear'),
        'no rows': (dps, Measurement(jnp.sum, np.zeros(())), 'operator', '[B, …]'),
        'zeta': (lambda m: {'sampler': DPS(m, zeta=-1)}, Measurement(MASK, Y), 'DPS.zeta', -1),
    }


@pytest.mark.parametrize('name', cases())
def test_bad_input_is_one_line(model, name):
    how, measurement, where, *values = cases()[name]
    with refused(where, *values):
        sample(model, how, measurement, 4)


def test_a_mask_may_be_bool_and_y_may_leave_the_range_by_its_noise(model):
    y = 6 * MASK.mask * np.ones((4, 1, 1, 1))
    found = [
        sample(model, SAMPLERS['dps'], Measurement(Mask(mask), y, 0.5), 4)
        for mask in (MASK.mask, MASK.mask > 0)
    ]
    assert_equal(*found)


def test_a_nonlinear_operator_is_fine_for_dps_and_daps(model):
    for name in ('dps', 'daps'):
        found = sample(model, SAMPLERS[name], Measurement(lambda x: x**2, TRUTH**2, 0.5), 4)
        assert_equal(found, sample(model, SAMPLERS[name], Measurement(lambda x: x**2, TRUTH**2, 0.5), 4))

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.diffusion.schedules import (
    betas,
    float64_transitions,
    make_schedule,
    respace,
    respaced_timesteps,
    row,
    transitions,
)


@st.composite
def spacings(draw):
    """(num_timesteps, a respacing that it allows)"""
    num_timesteps = draw(st.integers(21, 300))
    sections = draw(st.integers(1, 4))
    counts = [draw(st.integers(0, num_timesteps // sections)) for _ in range(sections)]
    return num_timesteps, ','.join(map(str, [counts[0] or 1, *counts[1:]]))


@settings(deadline=None)
@given(spacings(), st.sampled_from(['linear', 'cosine']))
def test_respacing_keeps_alpha_bar_at_the_timesteps_kept(spacing, name):
    num_timesteps, spec = spacing
    full, respaced = make_schedule(name, num_timesteps), make_schedule(name, num_timesteps, spec)
    kept = respaced.timesteps
    assert len(kept) == sum(map(int, spec.split(',')))
    assert np.all(np.diff(kept) > 0) and kept[0] >= 0 and kept[-1] < num_timesteps
    np.testing.assert_array_equal(respaced.alpha_bar, full.alpha_bar[kept])
    np.testing.assert_allclose(np.cumprod(1 - respaced.betas), respaced.alpha_bar, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(respaced.t, kept)


@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_no_respacing_is_the_identity(name):
    schedule = make_schedule(name, 1000)
    np.testing.assert_allclose(schedule.betas, betas(name, 1000), rtol=1e-10)
    np.testing.assert_array_equal(schedule.timesteps, np.arange(1000))


def test_respacing_twice_remembers_the_original_timesteps():
    schedule = make_schedule('linear', 1000, 'ddim100', rescale_timesteps=True)
    twice = respace(schedule, 'ddim25')
    np.testing.assert_array_equal(twice.timesteps, np.arange(0, 1000, 40))
    np.testing.assert_allclose(twice.alpha_bar, make_schedule('linear', 1000, 'ddim25').alpha_bar)


def test_the_network_sees_timesteps_of_the_original_process_scaled_where_it_learned_so():
    assert make_schedule('cosine', 4000, '3').t.tolist() == [0, 2000, 3999]
    assert make_schedule('cosine', 4000, '3', rescale_timesteps=True).t.tolist() == [0, 500, 999.75]


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('ddim1', '1 of 1000'),
        ('ddim600', '600 of 1000'),
        ('ddim5000', '5000 of 1000'),
        ('2000', '2000 .* 1000'),
        ('10,501', '501 .* 500'),
        ('0', 'at least 1'),
        ('ten', "'250'"),
        ('10,', "'250'"),
        ('ddim', "'250'"),
        ('-5', "'250'"),
    ],
)
def test_impossible_respacings_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        respaced_timesteps(1000, spec)


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match='sigmoid'):
        betas('sigmoid', 1000)
    with pytest.raises(ValueError, match='num_timesteps=0'):
        betas('cosine', 0)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('num_timesteps', [2, 19, 20])
def test_a_process_that_destroys_the_image_is_refused(num_timesteps):
    with pytest.raises(ValueError, match=f'linear .* {num_timesteps} timesteps'):
        make_schedule('linear', num_timesteps)
    assert make_schedule('linear', 21).alpha_bar[-1] > 0


@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_what_is_not_refused_has_finite_constants(name):
    usable = 0
    for num_timesteps in range(1, 60):
        for respacing in ('', '1', '2,1', 'ddim3'):
            try:
                schedule = make_schedule(name, num_timesteps, respacing)
            except ValueError:
                continue
            usable += 1
            table = transitions(schedule)
            assert all(np.isfinite(values).all() for values in jax.tree.leaves(table))
            assert (table.level.alpha > 0).all() and (table.level.sigma > 0).all()
    assert usable > 100


@pytest.mark.parametrize(
    ('name', 'num_timesteps', 'respacing'),
    [
        ('linear', 1000, ''),
        ('linear', 1000, '1'),
        ('linear', 21, ''),
        ('linear', 1, ''),
        ('cosine', 1, ''),
        ('cosine', 4000, ''),
    ],
)
def test_transitions_are_finite_and_chained(name, num_timesteps, respacing):
    table = transitions(make_schedule(name, num_timesteps, respacing))
    for values in jax.tree.leaves(table):
        assert values.dtype == np.float32 and np.all(np.isfinite(values))
    assert table.next.alpha[0] == 1 and table.next.sigma[0] == 0
    for before, level in zip(table.next, table.level, strict=True):
        np.testing.assert_array_equal(before[1:], level[:-1])


def test_small_levels_of_noise_keep_their_digits():
    """√(1−ᾱ) of the first timestep is √β = 0.01; ᾱ in float32 would spoil its fourth digit."""
    table = transitions(make_schedule('linear', 1000))
    np.testing.assert_allclose(table.level.sigma[0], 0.01, rtol=1e-6)


def test_the_posterior_is_that_of_two_gaussians():
    """q(x_{t-1}|x_t, x_0) from the precisions of q(x_{t-1}|x_0) and q(x_t|x_{t-1})."""
    schedule = make_schedule('cosine', 100, '10,5')
    table = float64_transitions(schedule)
    beta, alpha, sigma = (v[1:] for v in (schedule.betas, table.next.alpha, table.next.sigma))
    precision = 1 / sigma**2 + (1 - beta) / beta
    np.testing.assert_allclose(np.exp(table.log_posterior[1:]), 1 / precision)
    np.testing.assert_allclose(table.mean_x0[1:], alpha / sigma**2 / precision)
    np.testing.assert_allclose(table.mean_xt[1:], np.sqrt(1 - beta) / beta / precision)


def test_row_takes_one_or_a_batch():
    table = transitions(make_schedule('linear', 100))
    assert row(table, 3).level.t.shape == ()
    batch = row(table, np.array([3, 0]))
    np.testing.assert_array_equal(batch.next.t, [2, 0])
    np.testing.assert_array_equal(batch.log_beta, table.log_beta[np.array([3, 0])])

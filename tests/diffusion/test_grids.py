import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import GRIDS, inversion, level_at, make_grid, nearest_level
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import DDIM, sample
from diffusion_jax.diffusion.schedules import between, float64_transitions, karras, make_schedule
from tests.diffusion.mixture import make_mixture, vp_levels

LINEAR, COSINE = DiffusionConfig(schedule='linear'), DiffusionConfig(schedule='cosine')
SCHEDULE = make_schedule('linear', 1000)
SIGMAS = np.sqrt(1 / SCHEDULE.alpha_bar - 1)


def sigmas_of(grid):
    assert grid.next.sigma[-1] == grid.next.t[-1] == 0
    assert grid.next.alpha[-1] == 1
    for here, there in zip(grid.level, grid.next, strict=True):
        np.testing.assert_array_equal(here[1:], there[:-1])
    np.testing.assert_allclose(grid.level.alpha**2 + grid.level.sigma**2, 1, atol=1e-6)
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in jax.tree.leaves(grid))
    return grid.level.edm_sigma


def edm_sigmas(number, low, high):
    """EDM, eq. 5, with rho = 7."""
    i = np.arange(number) / (number - 1)
    return (high ** (1 / 7) + i * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def test_karras_is_that_of_edm_within_the_limits_of_the_process():
    linear, cosine = sigmas_of(make_grid(LINEAR, 'karras:18')), sigmas_of(make_grid(COSINE, 'karras:18'))
    np.testing.assert_allclose(linear, edm_sigmas(18, SIGMAS[0], 80.0), rtol=1e-5)
    least = np.sqrt(1 / make_schedule('cosine', 1000).alpha_bar[0] - 1)
    np.testing.assert_allclose(cosine, edm_sigmas(18, least, 80.0), rtol=1e-5)
    short = DiffusionConfig(schedule='cosine', num_timesteps=10)
    ends = np.sqrt(1 / make_schedule('cosine', 10).alpha_bar - 1)[[0, -1]]
    assert 0.002 < ends[0] < ends[1] < 1000
    np.testing.assert_allclose(
        sigmas_of(make_grid(short, 'karras:5')), edm_sigmas(5, ends[0], 80.0), rtol=1e-5
    )


def test_log_snr_has_equal_steps_over_the_process():
    sigmas = sigmas_of(make_grid(LINEAR, 'log_snr:12'))
    np.testing.assert_allclose(sigmas, np.geomspace(SIGMAS[-1], SIGMAS[0], 12), rtol=1e-5)


@pytest.mark.parametrize(
    ('name', 't'),
    [
        ('uniform:4', [999, 666, 333, 0]),
        ('quadratic:4', np.linspace(999**0.5, 0, 4) ** 2),
        ('t:900, 500.5,0', [900, 500.5, 0]),
    ],
)
def test_grids_of_timesteps(name, t):
    grid = make_grid(LINEAR, name)
    np.testing.assert_allclose(grid.level.t, t, rtol=1e-6, atol=1e-4)
    log_snr = np.interp(t, SCHEDULE.t, SCHEDULE.log_snr)
    np.testing.assert_allclose(sigmas_of(grid), np.exp(-log_snr / 2), rtol=1e-5)


def test_grid_of_sigmas():
    np.testing.assert_allclose(sigmas_of(make_grid(LINEAR, 'sigma:80,1,0.05')), [80, 1, 0.05], rtol=1e-6)


@pytest.mark.parametrize('rescaled', [False, True])
def test_the_network_sees_its_own_scale_of_timesteps(rescaled):
    config = DiffusionConfig(num_timesteps=4000, rescale_timesteps=rescaled)
    grid = make_grid(config, 't:3000,1000,0')
    np.testing.assert_allclose(grid.level.t, np.array([3000, 1000, 0]) / (4 if rescaled else 1), atol=1e-3)


def test_level_at_is_exact_at_trained_timesteps_and_monotone_between():
    level = level_at(SCHEDULE, SCHEDULE.log_snr)
    np.testing.assert_allclose(level.t, SCHEDULE.t, atol=1e-9)
    np.testing.assert_allclose(level.alpha, np.sqrt(SCHEDULE.alpha_bar), rtol=1e-12)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - SCHEDULE.alpha_bar), rtol=1e-12)
    between = level_at(SCHEDULE, np.linspace(SCHEDULE.log_snr[-1], SCHEDULE.log_snr[0], 5000))
    assert (np.diff(between.t) < 0).all()
    beyond = level_at(SCHEDULE, np.array([-30.0, 30.0]))
    np.testing.assert_array_equal(beyond.t, [999, 0])
    np.testing.assert_allclose(beyond.edm_sigma, np.exp([15, -15]))


@pytest.mark.parametrize('at', [level_at, nearest_level])
@pytest.mark.parametrize('schedule', ['linear', 'cosine', 'edm'])
def test_levels_on_the_device_are_those_of_the_host(at, schedule):
    schedule = make_schedule(schedule, 1000)
    log_snr = np.linspace(schedule.log_snr[-1], schedule.log_snr[0], 333).astype(np.float32)
    host, device = (
        at(schedule, log_snr.astype(np.float64)),
        jax.jit(lambda asked: at(schedule, asked))(log_snr),
    )
    assert all(a.dtype == jnp.float32 for a in device)
    np.testing.assert_allclose(device.t, host.t, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(device.alpha, host.alpha, rtol=1e-5)
    np.testing.assert_allclose(device.sigma, host.sigma, rtol=1e-5)


def test_nearest_rounds_as_edm_does():
    """To the trained σ that is nearest, by absolute distance."""
    rng = np.random.default_rng(0)
    queries = np.exp(rng.uniform(np.log(SIGMAS[0] / 2), np.log(SIGMAS[-1] * 2), 200))
    index = np.abs(queries[:, None] - SIGMAS).argmin(axis=1)
    level = nearest_level(SCHEDULE, -2 * np.log(queries))
    np.testing.assert_array_equal(level.t, index)
    np.testing.assert_allclose(level.edm_sigma, SIGMAS[index], rtol=1e-12)
    grid = make_grid(LINEAR, 'karras:18', 'nearest')
    np.testing.assert_array_equal(grid.level.t, np.round(grid.level.t))
    expected = np.abs(edm_sigmas(18, SIGMAS[0], 80.0)[:, None] - SIGMAS).argmin(axis=1)
    np.testing.assert_array_equal(grid.level.t, expected)


@pytest.mark.parametrize('respacing', ['', '25', 'ddim10', '1'])
@pytest.mark.parametrize('name', ['linear', 'cosine', 'edm'])
def test_between_trained_levels_are_the_transitions_of_the_process(name, respacing):
    table = jax.tree.map(lambda a: a[::-1], float64_transitions(make_schedule(name, 1000, respacing)))
    levels = Level(*(np.append(a, clean) for a, clean in zip(table.level, (0, 1, 0), strict=True)))
    # 1 − ᾱ is rounded to 1e-16, and β begins at 1e-4.
    for field, ours, expected in zip(table._fields, between(levels), table, strict=True):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=5e-12, err_msg=field)


def test_a_step_up_adds_the_noise_that_is_missing():
    grid = between(vp_levels([10.0, 1.0, 3.0, 0.5, 0.0]))
    np.testing.assert_array_equal(grid.renoise, [False, True, False, False])
    here, there = (Level(*(v[1] for v in level)) for level in (grid.level, grid.next))
    np.testing.assert_allclose(grid.mean_xt[1] * here.alpha, there.alpha)
    variance = grid.mean_xt[1] ** 2 * here.sigma**2 + np.exp(grid.log_beta[1])
    np.testing.assert_allclose(variance, there.sigma**2)
    assert grid.mean_x0[1] == 0
    down = between(vp_levels([3.0, 0.5, 0.0]))
    np.testing.assert_allclose(grid.mean_x0[2:], down.mean_x0)
    np.testing.assert_allclose(grid.log_posterior[2:], down.log_posterior)


def test_inversion_goes_the_levels_back_and_leads_to_the_noise_that_makes_the_image():
    grid = make_grid(LINEAR, 'log_snr:200')
    back = inversion(grid)
    np.testing.assert_array_equal(back.level.t, grid.level.t[:0:-1])
    np.testing.assert_array_equal(back.next.t, grid.level.t[-2::-1])
    mixture, nothing = make_mixture(), jnp.zeros((2, 2, 2, 3))
    images = mixture.means[:2].astype(np.float32) + 0.1
    run = jax.jit(lambda grid, x: sample(DDIM(), mixture.denoiser(), grid, lambda *_: nothing, x)[0].x)
    x_T = run(back, images)
    np.testing.assert_allclose(run(grid, x_T), images, atol=0.03)
    assert 0.2 < np.std(x_T) < 2


@pytest.mark.parametrize(
    ('respacing', 'says'),
    [
        ('carras:18', 'karras, log_snr'),
        ('karras:', 'at least 1'),
        ('karras:0', 'at least 1'),
        ('uniform:2.5', 'at least 1'),
        ('t:5,a', 'separated by commas'),
        ('t:nan', 'separated by commas'),
        ('t:1000,0', '0 and 999'),
        ('t:-1', '0 and 999'),
        ('t:5,5', 'less noisy'),
        ('sigma:1,80', 'less noisy'),
        ('sigma:1,0', '0.01 and 157.4'),
        ('karras', "'250'"),
        ('repaint:250/10', 'how often'),
        ('repaint:250/0,10', 'how often'),
        ('repaint:2000/10,10', '1000'),
        ('0', 'at least 1'),
    ],
)
def test_what_is_no_grid_is_refused(respacing, says):
    with pytest.raises(ValueError, match=says):
        make_grid(LINEAR, respacing)


def test_the_papers_grid_of_repaint():
    grid = make_grid(LINEAR, 'repaint:250/10,10')
    assert (np.sum(~grid.renoise), np.sum(grid.renoise)) == (2410, 2160)  # as the release counts
    up, level, there = grid.renoise, grid.level, grid.next
    assert (there.sigma[up] > level.sigma[up]).all() and (there.sigma[~up] < level.sigma[~up]).all()
    np.testing.assert_array_equal(level.t[1:], there.t[:-1])
    assert make_grid(LINEAR, 'repaint:20/20,1').renoise is None


@pytest.mark.parametrize('name', [*GRIDS, 'repaint'])
def test_a_network_that_predicts_the_previous_x_has_its_own_steps_only(name):
    config = DiffusionConfig(prediction='previous_x')
    with pytest.raises(ValueError, match='previous_x'):
        make_grid(config, f'{name}:3/1,1' if name == 'repaint' else f'{name}:3')


@pytest.mark.parametrize('name', ['karras:1', 'log_snr:1', 'uniform:1', 'quadratic:1', 't:0', 'sigma:2'])
def test_one_level_is_enough(name):
    assert len(sigmas_of(make_grid(LINEAR, name))) == 1


def test_restarts_go_up_from_the_nearest_level_and_down_again():
    grid = make_grid(LINEAR, 'restart:karras:6/0.05,1,2,3/5,20,1,1')
    base = make_grid(LINEAR, 'karras:6').level.edm_sigma
    low, high = (int(np.abs(base - sigma).argmin()) for sigma in (0.05, 5))
    again = [*karras(1.0, base[low], 3)[:2], base[low]]
    expected = [*base[: high + 1], 20, base[high], *base[high + 1 : low + 1], *again, *again, *again]
    expected += [*base[low + 1 :]]
    np.testing.assert_allclose(grid.level.edm_sigma, expected, rtol=1e-5)
    np.testing.assert_array_equal(grid.renoise, np.diff([*expected, 0]) > 0)
    assert grid.renoise.sum() == 4
    # Churn is divided among the steps that remove noise.
    np.testing.assert_array_equal(grid.num_steps, len(expected) - 4)


def test_restarts_over_timesteps_keep_them():
    grid = make_grid(LINEAR, 'restart:10/0.1,2,2,1')
    np.testing.assert_allclose(grid.level.t[:3], [999, 888, 777], atol=1e-3)
    assert grid.renoise.sum() == 1
    nearest = make_grid(LINEAR, 'restart:karras:10/0.1,2,2,1', 'nearest').level.t
    np.testing.assert_array_equal(nearest, np.round(nearest))


@pytest.mark.parametrize(
    'respacing',
    [
        *('restart:karras:10', 'restart:karras:10/0.1,2,2', 'restart:karras:10/2,0.1,2,1'),
        *('restart:karras:10/0.1,2,0,1', 'restart:karras:10/0.1,2,1.5,1', 'restart:karras:10/0.1,2,2,0'),
        *('restart:karras:10/0.1,90,2,1', 'restart:karras:10/0.0001,2,2,1', 'restart:karras:10/a'),
        'restart:restart:karras:10/0.1,2,2,1/0.1,2,2,1',
    ],
)
def test_restarts_that_are_impossible(respacing):
    with pytest.raises(ValueError, match='must be'):
        make_grid(LINEAR, respacing)

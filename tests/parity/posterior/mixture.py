"""Posterior sampling of a mixture: values at points, and simulated laws of the methods."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.guidance import Models, ReconstructionGuidance
from diffusion_jax.diffusion.inverse import PiGDM
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.schedules import respaced_timesteps
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.posterior.gaussian import check_simulation, check_targets, close, jump_grid
from tests.parity.posterior.laws import simulate
from tests.parity.posterior.methods import make_method, read_options
from tests.parity.posterior.model import Model, grid_at, model_of

CHAINS = 4_000
KEYS = {'target', 'points'}
LAW = {'mean', 'cov', 'component_weights', 'mean_se', 'weights_se'}


def check_points(case: Case, model: Model) -> None:
    """Exact values of denoiser, likelihood, and of the gradients of ΠGDM and of DPS's likelihood."""
    points = {key.split('/')[1]: values for key, values in case.arrays.items() if key.startswith('points/')}
    size = model.size

    def gradient(denoise, x, level):
        return denoise(x, level)[0].gradient.reshape(-1, size)

    for i, alpha_bar in enumerate(points['alpha_bar']):
        level = Level(points['t'][i], jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar))
        x = jnp.asarray(points['x_t'][i].reshape(-1, 1, 1, size))
        prediction = model.predict(x, level)
        surrogate = ReconstructionGuidance(1.0, model.log_likelihood)
        known = {
            'responsibilities': jnp.exp(model.parts(x, level)[0]),
            'x0hat': prediction.x_0.reshape(-1, size),
            'score': -prediction.eps.reshape(-1, size) / level.sigma,
            'log_p_y': model.log_prob(x, level),
            'grad_exact': jax.grad(lambda x: model.log_prob(x, level).sum())(x).reshape(-1, size),  # noqa: B023
            'grad_pigdm': gradient(PiGDM(model.measurement).wrap(model.denoiser(), Models()), x, level),
            'grad_dps': gradient(surrogate.wrap(model.denoiser(), Models()), x, level),
        }
        assert set(points) <= set(known) | {'alpha_bar', 't', 'x_t'}, f'unknown {set(points) - set(known)}'
        for name in set(points) & set(known):
            close('values at points', known[name], points[name][i], f'points/{name}/{i}', 1e-8)


def component_weights(model: Model, x_0: np.ndarray) -> np.ndarray:
    """p(k|x_0) of the data, [B, K]."""
    clean = Level(0.0, 1.0, 0.0)
    return np.exp(np.asarray(model.parts(jnp.asarray(x_0), clean)[0]))


def check_mixture(case: Case) -> None:
    with jax.enable_x64(True):
        model = model_of(case)
        check_targets(case, model)
        check_points(case, model)
        laws = {tuple(key.split('/')[:2]) for key in case.arrays if key.count('/') == 2}
        laws = {law for law in laws if law[0] not in KEYS and not law[0].startswith('smc_target')}
        assert {'/'.join(law) for law in laws} <= set(case.meta['monte_carlo'])
        for name, steps in sorted(laws):
            recorded = {
                key.split('/')[2]: values
                for key, values in case.arrays.items()
                if key.startswith(f'{name}/{steps}/')
            }
            assert set(recorded) <= LAW, f'{name}: unknown {set(recorded) - LAW}'
            timesteps = np.array(respaced_timesteps(1000, steps))
            options = read_options(name, None)
            grid = jump_grid(timesteps, options) if name.startswith('repaint') else grid_at(timesteps[::-1])
            x_0 = simulate(make_method(name, model, options), model, grid, CHAINS)
            check_simulation({k: v for k, v in recorded.items() if 'mean' in k or k == 'cov'}, x_0, name)
            shares = component_weights(model, x_0)
            error = np.hypot(shares.std(0) / len(x_0) ** 0.5, recorded['weights_se'])
            z = (shares.mean(0) - recorded['component_weights']) / (error + 1e-12)
            compare('z of simulated laws', np.abs(z), np.zeros_like(z), atol=4.5, detail=f'{name}/weights')


def is_mixture(case: Case) -> bool:
    return {'weights', 'covs', 's_y', 'points/x_t'} <= case.arrays.keys()


CHECKS = [Check('posterior', is_mixture, check_mixture, slow=lambda case: True)]

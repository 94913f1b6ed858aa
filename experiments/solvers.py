"""The error of every sampler against the number of evaluations, on a mixture whose denoiser is exact.

    pip install matplotlib
    python experiments/solvers.py

Writes solvers.json, .md (tables) and .png to experiments/results/. Took 21 minutes on 2 busy CPU cores.

The mixture is that of the tests: three Gaussians in 12 dimensions; the process is the linear schedule with
1,000 timesteps. A deterministic sampler is measured by its distance to the exact solution of the ODE from the
same noise, the root mean square over 256 images. A random one, and DDIM in addition, is measured by the
sliced Wasserstein distance of 4,096 images to as many of the mixture, along 64 directions. The distance
between two sets of the mixture's own images is the floor of that.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.process import Level, Prediction, align, from_x_0
from diffusion_jax.diffusion.samplers import EDM_IMAGENET64, SAMPLERS, Sampler, sample
from diffusion_jax.diffusion.samplers.loop import evaluations, noise_of
from diffusion_jax.diffusion.schedules import between
from diffusion_jax.diffusion.trajectory_grids import cheapest_path, cost_matrix, sigma_text

matplotlib.use('Agg')
from matplotlib import pyplot as plt

BUDGETS = (5, 8, 10, 15, 25, 50, 250)
GRIDS = ('log_snr', 'karras', 'uniform')
SHAPE = (2, 2, 3)
LINEAR = DiffusionConfig()
RANDOM = {name: SAMPLERS[name]() for name in ('ddpm', 'ddim', 'dpmpp_2m_sde', 'dpmpp_3m_sde')}
RANDOM |= {'heun with churn': EDM_IMAGENET64}
EXACT_STEPS = 4000


def mixture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [3], means [3, H, W, C], standard deviations [3]."""
    means = np.random.default_rng(0).uniform(-0.7, 0.7, (3, *SHAPE))
    return np.array([0.3, 0.5, 0.2]), means, np.array([0.2, 0.3, 0.15])


def predict(x_t: jax.Array, level: Level) -> Prediction:
    """E[x_0|x_t]."""
    weights, means, stds = (jnp.asarray(a, x_t.dtype) for a in mixture())
    total = level.alpha**2 * stds**2 + level.sigma**2
    residual = x_t[:, None] - level.alpha * means
    squared = jnp.sum(residual**2, axis=(2, 3, 4))
    log_joint = jnp.log(weights) - 0.5 * (squared / total + x_t[0].size * jnp.log(total))
    x_0 = means + align(level.alpha * stds**2 / total, means) * residual
    return from_x_0(jnp.sum(align(jax.nn.softmax(log_joint), x_0) * x_0, axis=1), x_t, level)


DENOISER = plain(predict)


def grid_of(sampler: Sampler, budget: int, kind: str) -> Any:
    """The grid with the most levels that the budget allows; None if that is fewer than two."""
    levels = (budget - 1) // sampler.evaluations + 1
    if levels < 2:
        return None
    return make_grid(LINEAR, chosen(levels) if kind == 'chosen' else f'{kind}:{levels}')


@functools.cache
def chosen(levels: int) -> str:
    """The grid that GITS chooses over 61 levels of iPNDM, from 64 images."""
    grid = make_grid(LINEAR, 'karras:61')
    x_T = noise_of(jax.random.split(jax.random.key(2), 64), SHAPE)(0, 0)

    def record(state: Any, prediction: Prediction, transition: Any) -> Any:
        return state.x / transition.level.alpha, prediction.eps

    _, (x, eps) = sample(SAMPLERS['ipndm'](), DENOISER, grid, noise_of(None, SHAPE), x_T, record=record)
    sigmas = np.asarray(grid.level.edm_sigma, np.float64)
    return sigma_text(sigmas[cheapest_path(cost_matrix(x, eps, sigmas), levels, 1.15)])


@jax.jit
def images(sampler: Sampler, grid: Any, keys: jax.Array) -> jax.Array:
    noise_at = noise_of(keys, SHAPE)
    return sample(sampler, DENOISER, grid, noise_at, noise_at(0, 0))[0].x


def exact(keys: jax.Array, first_sigma: float) -> np.ndarray:
    """The solution of the ODE from the noise at the first level; float64."""
    with jax.enable_x64(True):
        x_T = noise_of(keys, SHAPE)(0, 0).astype(np.float64)
        grid = make_exact_grid(first_sigma)
        found = sample(SAMPLERS['dpmpp_3s'](), DENOISER, grid, lambda position, i: jnp.zeros_like(x_T), x_T)
        return np.asarray(found[0].x)


def make_exact_grid(first_sigma: float) -> Any:
    sigmas = np.append(np.geomspace(first_sigma, 1e-4, EXACT_STEPS), 0.0)
    alpha = 1 / np.sqrt(1 + sigmas**2)
    return between(Level(np.zeros_like(sigmas), alpha, sigmas * alpha))


def sliced_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The sliced Wasserstein distance of order 2 of two sets of as many images."""
    directions = np.random.default_rng(3).standard_normal((a[0].size, 64))
    directions /= np.linalg.norm(directions, axis=0)
    sorted_a, sorted_b = (np.sort(x.reshape(len(x), -1) @ directions, axis=0) for x in (a, b))
    return float(np.sqrt(np.mean((sorted_a - sorted_b) ** 2)))


def drawn(number: int, seed: int) -> np.ndarray:
    """Images of the mixture."""
    rng, (weights, means, stds) = np.random.default_rng(seed), mixture()
    k = rng.choice(3, number, p=weights)
    return means[k] + stds[k][:, None, None, None] * rng.standard_normal((number, *SHAPE))


def deterministic_errors(keys: jax.Array) -> dict[str, dict[str, dict[int, float]]]:
    """Of each sampler of the ODE, on each grid, at each budget."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    solutions: dict[float, np.ndarray] = {}
    for name, kind in SAMPLERS.items():
        if kind.order is None:
            continue
        for grid_name in (*GRIDS, 'chosen'):
            for budget in BUDGETS:
                fits = grid_name != 'chosen' or budget <= 25
                grid = grid_of(kind(), budget, grid_name) if fits else None
                if grid is None:
                    continue
                assert evaluations(kind(), grid) <= budget
                first = float(grid.level.edm_sigma[0])
                if first not in solutions:
                    solutions[first] = exact(keys, first)
                error = np.asarray(images(kind(), grid, keys)) - solutions[first]
                found.setdefault(name, {}).setdefault(grid_name, {})[budget] = float(
                    np.sqrt(np.mean(error**2))
                )
    return found


def random_errors(keys: jax.Array) -> dict[str, dict[str, dict[int, float]]]:
    """The distances of the laws."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    target = drawn(len(keys), 1)
    for name, sampler in RANDOM.items():
        for grid_name in GRIDS:
            for budget in BUDGETS:
                grid = grid_of(sampler, budget, grid_name)
                if grid is not None:
                    distance = sliced_distance(np.asarray(images(sampler, grid, keys)), target)
                    found.setdefault(name, {}).setdefault(grid_name, {})[budget] = distance
    return found


def best(errors: dict[str, dict[int, float]], budget: int) -> tuple[float, str]:
    """The smallest error over grids, and its grid."""
    return min((by_budget[budget], grid) for grid, by_budget in errors.items() if budget in by_budget)


def table(errors: dict[str, dict[str, dict[int, float]]]) -> str:
    """The best grid of each sampler at each budget."""
    lines = ['| sampler | ' + ' | '.join(map(str, BUDGETS)) + ' |', '|---' * (len(BUDGETS) + 1) + '|']
    for name, of_grids in errors.items():
        cells = []
        for budget in BUDGETS:
            has = any(budget in by_budget for by_budget in of_grids.values())
            cells.append('{:.2g} {}'.format(*best(of_grids, budget)) if has else '–')
        lines.append(f'| `{name}` | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def report(results: dict[str, Any]) -> str:
    ode, law, floor = results['ode'], results['law'], results['floor']
    at_10, name_10 = min((best(grids, 10)[0], name) for name, grids in ode.items() if has(grids, 10))
    at_25, name_25 = min((best(grids, 25)[0], name) for name, grids in law.items() if has(grids, 25))
    ddim, ddpm = best(ode['ddim'], 50)[0], best(law['ddpm'], 250)[0]
    plain_ddim, plain_ddpm = ode['ddim']['uniform'][50], law['ddpm']['uniform'][250]
    return f"""# Error against evaluations

Made by `experiments/solvers.py` on a mixture of three Gaussians in 12 dimensions, with its exact denoiser.
Each cell is the smallest error over the grids, and that grid, with at most this number of evaluations.

## Distance to the exact solution of the ODE

Root mean square over 256 images. `chosen` is the grid that `choose_grid` finds (GITS, 61 levels of iPNDM).

{table(ode)}

At 10 evaluations the smallest error is {at_10:.2g} (`{name_10}`); that of DDIM at 50 is {ddim:.2g} on its
best grid and {plain_ddim:.2g} with equal steps of t, as in the paper.

## Distance of the law

Sliced Wasserstein distance of 4,096 images to as many of the mixture. Two sets of the mixture's own images
have the distance {floor:.2g}, so smaller differences have no meaning.

{table(law)}

At 25 evaluations the smallest distance is {at_25:.2g} (`{name_25}`); that of DDPM at 250 is {ddpm:.2g} on
its best grid and {plain_ddpm:.2g} with equal steps of t.

![errors](solvers.png)  Every grid: `solvers.json`.
"""


def has(grids: dict[str, dict[int, float]], budget: int) -> bool:
    return any(budget in by_budget for by_budget in grids.values())


def plot(results: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    titles = 'distance to the solution of the ODE', 'distance of the law'
    for axis, errors, title in zip(axes, (results['ode'], results['law']), titles, strict=True):
        for name, of_grids in errors.items():
            budgets = [budget for budget in BUDGETS if has(of_grids, budget)]
            axis.loglog(budgets, [best(of_grids, budget)[0] for budget in budgets], 'o-', ms=3, label=name)
        axis.set(title=title, xlabel='evaluations', xticks=BUDGETS, xticklabels=BUDGETS)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[1].axhline(results['floor'], color='k', lw=0.8, ls=':')
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--results', type=Path, default=Path(__file__).parent / 'results')
    folder = parser.parse_args().results
    results = {
        'ode': deterministic_errors(jax.random.split(jax.random.key(0), 256)),
        'law': random_errors(jax.random.split(jax.random.key(1), 4096)),
        'floor': sliced_distance(drawn(4096, 4), drawn(4096, 1)),
    }
    (folder / 'solvers.json').write_text(json.dumps(results, indent=1) + '\n')
    (folder / 'solvers.md').write_text(report(results))
    plot(results, folder / 'solvers.png')


if __name__ == '__main__':
    main()

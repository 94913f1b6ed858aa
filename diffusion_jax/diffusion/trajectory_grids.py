"""Grids chosen by dynamic programming over a teacher's trajectory: GITS (2405.11326).

A teacher samples a few images on a fine grid. cost[i, j] is the error of one Euler step from its node i to
its node j, and the chosen nodes minimise the sum of the costs along the path from the first node to the last
one. States are x̄ = x_t/alpha = x_0 + σ·eps, for which a step is x̄_j = x̄_i + (σ_j − σ_i)·ε̂_i. Nothing is
trained. All of it is NumPy, float64.
"""

import numpy as np

METRICS = ('dev', 'l1', 'l2')


def cost_matrix(x: np.ndarray, eps: np.ndarray, sigmas: np.ndarray, metric: str = 'dev') -> np.ndarray:
    """cost[i, j] of a step from node i to node j > i, [N, N], the mean over images; 0 elsewhere.

    Args:
      x, eps: [N, B, H, W, C], states x̄ of the teacher and its estimates of eps there, the noisiest first.
      sigmas: [N].
      metric: 'l1' or 'l2', the norm of the difference to the teacher; 'dev', by how much farther than the
        teacher the step is from the straight line between the teacher's first and last state.
    """
    number, batch = x.shape[:2]
    x, eps = (np.asarray(a, np.float64).reshape(number, batch, -1) for a in (x, eps))
    cost = np.zeros((number, number))
    teacher = _deviation(x, x[0], x[-1])
    for i in range(number - 1):
        steps = x[i] + (sigmas[i + 1 :] - sigmas[i])[:, None, None] * eps[i]
        if metric == 'dev':
            errors = _deviation(steps, x[0], x[-1]) - teacher[i + 1 :]
        else:
            errors = np.linalg.norm(steps - x[i + 1 :], ord={'l1': 1, 'l2': 2}[metric], axis=-1)
        cost[i, i + 1 :] = errors.mean(axis=1)
    return cost


def cheapest_path(cost: np.ndarray, nodes: int, coefficient: float = 1.0) -> list[int]:
    """The nodes of the cheapest path from the first node to the last, exactly; `nodes` counts both ends.

    coefficient: γ. A path costs the cost of its first step plus γ times that of the path from there on.
    """
    number = len(cost)
    rest = np.append(np.full(number - 1, np.inf), 0.0)  # from each node, in 0, 1, … steps
    table, upper = [rest], np.triu(np.ones((number, number), bool), 1)
    for _ in range(nodes - 1):
        total = np.where(upper, cost + coefficient * table[-1], np.inf)
        table.append(total.min(axis=1))
    path = [0]
    for rest in table[-2::-1]:
        i = path[-1]
        path.append(int(np.argmin(np.where(upper[i], cost[i] + coefficient * rest, np.inf))))
    return path


def sigma_text(sigmas: np.ndarray) -> str:
    """The text of the grid with these σ, such as 'sigma:80,9.2,0.002'."""
    return 'sigma:' + ','.join(f'{sigma:.6g}' for sigma in sigmas)


def _deviation(x: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The distances of points [N, B, D] to the lines through two others [B, D]; [N, B]."""
    direction = (last - first) / np.linalg.norm(last - first, axis=-1, keepdims=True)
    away = last - x
    along = np.sum(away * direction, axis=-1, keepdims=True)
    return np.linalg.norm(away - along * direction, axis=-1)

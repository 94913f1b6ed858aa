"""The formulas of the diffusion process again: NumPy float64, explicit gradients, layouts of the release.

Nothing here calls the package: given betas and ᾱ it can decide where ours and the record
part. Equation numbers are of DDPM (2006.11239) and Improved DDPM (2102.09672) where not said otherwise.
"""

from collections.abc import Mapping

import numpy as np

UNITS = 2.0**-22  # four roundings to nearest, shared by the two sides


def _phi(x: np.ndarray) -> np.ndarray:
    """The approximate Φ of the release: ½·(1 + tanh z) = 1/(1 + e^{−2z}), which keeps small values."""
    with np.errstate(over='ignore'):
        return 1 / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _density(x: np.ndarray) -> np.ndarray:
    """Its derivative."""
    return 2 * _phi(x) * _phi(-x) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def log_mass(x: np.ndarray, mean: np.ndarray, log_scale: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of the discretized Gaussian (eq. 13): log mass, and its derivatives by mean and log_scale."""
    scale = np.exp(-log_scale)
    upper, lower = scale * (x - mean + 1 / 255), scale * (x - mean - 1 / 255)
    first, last = x < -0.999, x > 0.999
    # Above the mean the two values of Φ are near 1; their mirror images are near 0.
    inside = np.where(x > mean, _phi(-lower) - _phi(-upper), _phi(upper) - _phi(lower))
    mass = np.where(first, _phi(upper), np.where(last, _phi(-lower), inside))
    at_upper = np.where(last, 0.0, _density(upper))
    at_lower = np.where(first, 0.0, _density(lower))
    floored = np.maximum(mass, 1e-12)
    kept = (mass >= 1e-12) / floored
    by_mean = -scale * (at_upper - at_lower) * kept
    by_log_scale = -(at_upper * upper - at_lower * lower) * kept
    return np.log(floored), by_mean, by_log_scale


class Exact:
    """The one-step results of one process, by the names of a recorded case; x_t is the recorded one.

    betas, alpha_bar: float64 [T], of the process in use.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], betas: np.ndarray, alpha_bar: np.ndarray):
        self.num_timesteps, self.disturbed = len(betas), None
        before, after = np.append(1.0, alpha_bar[:-1]), np.append(alpha_bar[1:], 0.0)
        small = betas * (1 - before) / (1 - alpha_bar)
        log_small = np.log(np.append(small[1], small[1:]))
        tables = {
            'log_beta': np.log(betas),
            'ab': alpha_bar,
            'before': before,
            'after': after,
            'small': small,
            'log_small': log_small,
            'log_large': np.log(np.append(small[1], betas[1:])),
            'c0': betas * np.sqrt(before) / (1 - alpha_bar),
            'ct': (1 - before) * np.sqrt(1 - betas) / (1 - alpha_bar),
        }
        t = arrays['t']
        for name, table in tables.items():
            setattr(self, name, table[t].reshape(-1, 1, 1, 1))
        self.is_first = (t == 0).reshape(-1, 1, 1, 1)
        self.final = alpha_bar[-1]
        inputs = ('x_start', 'noise', 'cond_grad', 'q_sample')
        self.x_0, self.noise, self.gradient, self.x_t = (arrays[key].astype(np.float64) for key in inputs)
        outputs = (arrays[f'model_output_{name}'].astype(np.float64) for name in ('range', 'learned'))
        self.output_range, self.output_learned = outputs

    def answer(self, key: str) -> np.ndarray:
        name, *parts = key.split('/')
        return getattr(self, name)(*parts)

    results = ('x_t', 'value', 'mean', 'target', 'log_variance', 'log_beta')

    def rounding(self, key: str) -> np.ndarray:
        """What float32 may do to the answer: UNITS of every result on the way to it, to first order."""
        answer, total = self.answer(key), 0.0
        for name in self.results:
            self.disturbed = name
            total += np.abs(self.answer(key) - answer)
        self.disturbed = None
        return total

    def rounded(self, name: str, result: np.ndarray) -> np.ndarray:
        return result * (1 + UNITS) if name == self.disturbed else result

    def output(self, variance: str) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.split(self.output_learned if variance == 'learned' else self.output_range, 2, axis=1))

    def x_0_of(self, kind: str, value: np.ndarray) -> np.ndarray:
        value, x_t = self.rounded('value', value), self.rounded('x_t', self.x_t)
        if kind == 'eps':
            return (x_t - np.sqrt(1 - self.ab) * value) / np.sqrt(self.ab)
        return value if kind == 'x0' else (value - self.ct * x_t) / self.c0

    def log_variance_of(self, variance: str, raw: np.ndarray) -> np.ndarray:
        if variance == 'range':  # Improved DDPM, eq. 15
            return (raw + 1) / 2 * self.rounded('log_beta', self.log_beta) + (1 - raw) / 2 * self.log_small
        return {'learned': raw, 'large': self.log_large, 'small': self.log_small}[variance]

    def model(self, kind: str = 'eps', variance: str = 'range', clipped: bool = True):
        """mean and log-variance of p(x_{t-1}|x_t), and the estimate of x_0."""
        value, raw = self.output(variance)
        x_0 = self.x_0_of(kind, value)
        x_0 = np.clip(x_0, -1, 1) if clipped else x_0
        mean = value if kind == 'prev' else self.c0 * x_0 + self.ct * self.x_t
        log_variance = self.rounded('log_variance', self.log_variance_of(variance, raw))
        return self.rounded('mean', mean), log_variance, x_0

    def target(self) -> np.ndarray:
        """The mean of q(x_{t-1}|x_t, x_0)."""
        return self.rounded('target', self.c0 * self.x_0 + self.ct * self.x_t)

    def q_sample(self):
        return np.sqrt(self.ab) * self.x_0 + np.sqrt(1 - self.ab) * self.noise

    def q_mean_variance(self, part):
        variance = (1 - self.ab).ravel()
        return {
            'mean': np.sqrt(self.ab) * self.x_0,
            'variance': variance,
            'log_variance': np.log(variance),
        }[part]

    def q_posterior(self, part):
        return {
            'mean': self.target(),
            'variance': self.small.ravel(),
            'log_variance': self.log_small.ravel(),
        }[part]

    def prior_bpd(self):
        log_variance = np.log(1 - self.final)
        kl = 0.5 * (-1 - log_variance + np.exp(log_variance) + self.final * self.x_0**2)
        return kl.mean(axis=(1, 2, 3)) / np.log(2)

    def pmv(self, kind, variance, *parts):
        mean, log_variance, x_0 = self.model(kind, variance, 'clip0' not in parts)
        value = np.exp(log_variance)
        if variance == 'small':
            value = np.where(self.is_first, 0.0, value)
        found = {'mean': mean, 'pred_xstart': x_0, 'log_variance': log_variance, 'variance': value}[parts[-1]]
        return found.ravel() if found.size == len(self.ab) else found

    def bound(self, mean: np.ndarray, log_variance: np.ndarray) -> tuple[np.ndarray, ...]:
        """The term of the bound, [B] bits per dimension, and its derivatives by both arguments."""
        target = self.target()
        precision = np.exp(-log_variance)
        ratio = np.exp(self.log_small - log_variance)
        square = (target - mean) ** 2 * precision
        kl = 0.5 * (-1 + log_variance - self.log_small + ratio + square)
        by_mean, by_log_variance = (mean - target) * precision, 0.5 * (1 - ratio - square)
        log_probs, mass_by_mean, mass_by_scale = log_mass(self.x_0, mean, 0.5 * log_variance)
        terms = np.where(self.is_first, -log_probs, kl)
        by_mean = np.where(self.is_first, -mass_by_mean, by_mean)
        by_log_variance = np.where(self.is_first, -0.5 * mass_by_scale, by_log_variance)
        unit = np.log(2) * terms[0].size
        return terms.sum(axis=(1, 2, 3)) / unit, by_mean / unit, by_log_variance / unit

    def vb(self, kind, variance, clipped, _):
        return self.bound(*self.model(kind, variance, clipped == 'clip1')[:2])[0]

    def loss(self, kind, variance, loss, part):
        value, _ = self.output(variance)
        mean, log_variance, _ = self.model(kind, variance, clipped=False)
        vb, by_mean, by_log_variance = self.bound(mean, np.broadcast_to(log_variance, mean.shape))
        c0 = self.c0
        by_value = by_mean * {'eps': -c0 * np.sqrt(1 / self.ab - 1), 'x0': c0, 'prev': 1.0}[kind]
        by_raw = by_log_variance * (
            (self.rounded('log_beta', self.log_beta) - self.log_small) / 2 if variance == 'range' else 1.0
        )
        learned = variance in ('learned', 'range')
        weight = {'mse': 1, 'rmse': self.num_timesteps / 1000, 'kl': 1, 'rkl': self.num_timesteps}[loss]
        terms = {'vb': vb * weight, 'loss': vb * weight}
        by_value, by_raw = by_value * weight, by_raw * weight
        if loss in ('mse', 'rmse'):
            target = {'eps': self.noise, 'x0': self.x_0, 'prev': self.target()}[kind]
            terms['mse'] = ((target - value) ** 2).mean(axis=(1, 2, 3))
            terms['loss'] = terms['mse'] + (terms['vb'] if learned else 0)
            by_value = 2 * (value - target) / target[0].size
        terms['grad_model_output'] = np.concatenate([by_value, by_raw], axis=1) if learned else by_value
        return terms[part]

    def p_sample_step(self, gradient=0.0, noise=None):
        mean, log_variance, _ = self.model()
        noise = self.noise if noise is None else noise
        shifted = mean + np.exp(log_variance) * gradient
        return shifted + np.where(self.is_first, 0.0, np.exp(0.5 * log_variance) * noise)

    def p_sample_step_guided(self):
        return self.p_sample_step(self.gradient)

    def condition_mean(self):
        return self.p_sample_step(self.gradient, noise=0.0)

    def eps_of(self, x_0: np.ndarray) -> np.ndarray:
        return (self.x_t - np.sqrt(self.ab) * x_0) / np.sqrt(1 - self.ab)

    def condition_score(self, part):
        """2105.05233, eq. 14."""
        eps = self.eps_of(self.model()[2]) - np.sqrt(1 - self.ab) * self.gradient
        x_0 = self.x_0_of('eps', eps)
        return x_0 if part == 'pred_xstart' else self.c0 * x_0 + self.ct * self.x_t

    def ddim_step(self, eta):
        """DDIM (2010.02502), eq. 12 and 16."""
        x_0 = self.model()[2]
        variance = (1 - self.before) / (1 - self.ab) * (1 - self.ab / self.before)
        sigma = float(eta.removeprefix('eta')) * np.sqrt(variance)
        direction = np.sqrt(np.maximum(1 - self.before - sigma**2, 0)) * self.eps_of(x_0)
        return np.sqrt(self.before) * x_0 + direction + sigma * self.noise

    def ddim_reverse_step(self):
        x_0 = self.model()[2]
        return np.sqrt(self.after) * x_0 + np.sqrt(1 - self.after) * self.eps_of(x_0)

    def denoised_fn(self, _):
        return np.clip(0.5 * self.model(clipped=False)[2] + 0.1, -1, 1)

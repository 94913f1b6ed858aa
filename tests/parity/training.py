"""Checks of recorded cases: optimizer, averages, and complete training steps of the authors' loop."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax.diffusion import losses
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.metrics import add_up, means
from diffusion_jax.training.objectives import diffusion_objective
from diffusion_jax.training.optimizer import learning_rate, make_optimizer, update_ema
from diffusion_jax.training.step import batch_metrics, mean_gradients
from diffusion_jax.weights.reference import from_reference, to_reference
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.likelihood import release_log_likelihood
from tests.parity.models import config_from_arguments
from tests.parity.trajectories import FREE_RUN_SENSITIVITIES


def check_optimizer(case: Case) -> None:
    """AdamW and one average per rate on given gradients."""
    for run, settings in case.meta['config'].items():
        config = TrainConfig(
            num_steps=1, batch_size=1, learning_rate=settings['lr'], weight_decay=settings['weight_decay']
        )
        optimizer = make_optimizer(config)
        rates = [name.split('_')[1] for name in case.arrays if name.startswith(f'{run}/ema_')]
        params = {'p': jnp.asarray(case.arrays['p0'])}
        ema = dict.fromkeys(rates, params)
        state = optimizer.init(params)
        for step, gradient in enumerate(case.arrays['grads']):
            updates, state = optimizer.update({'p': jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
            ema = update_ema(ema, params, step + 1, warmup=False)
            compare('AdamW', params['p'], case.arrays[f'{run}/params'][step], atol=1e-5, detail=run)
            for rate in rates:
                expected = case.arrays[f'{run}/ema_{rate}'][step]
                compare('averages of parameters', ema[rate]['p'], expected, atol=1e-5, detail=run)


def check_train_steps(case: Case) -> None:
    """Four steps of the authors' loop: losses, gradient norms, parameters and averages."""
    for run in case.meta['runs']:
        _TrainingRun(case, run).check()


class Step(NamedTuple):
    """One step of a replay: what is logged, the gradients, Adam's v̂, and what the step made."""

    logged: dict[str, float]
    gradients: dict
    square: dict
    params: dict
    ema: dict[str, dict]


class _TrainingRun:
    """One recorded run, replayed with our gradients, optimizer and averages.

    Three defects of the reference are reproduced here: it adds the gradients of microbatches where we average
    them, its learning rate lags one step behind ours, and it loses the small masses of its likelihood.

    Adam makes a full step of any gradient, be it rounding: the bias of a convolution before a norm over
    single channels has the gradient 0, in float32 ±1e-9, and moves by up to lr a step in a direction left to
    chance. Hence two more replays, from parameters an ulp away, say how far each number is determined at all.
    """

    def __init__(self, case: Case, run: str):
        settings = case.meta['config']
        self.train, self.run, self.case = settings['train'], run, case
        self.logs = case.meta['runs'][run]['logs']
        self.steps, self.batch = case.arrays['t'].shape
        microbatch = int(run.removeprefix('mb'))
        self.microbatches = self.batch // microbatch if microbatch > 0 else 1
        self.num_timesteps = settings['diffusion_steps']
        self.network = config_from_arguments('UNetModel', settings['unet'])
        diffusion = DiffusionConfig(
            schedule=settings['noise_schedule'],
            num_timesteps=self.num_timesteps,
            variance='learned_range' if settings['learn_sigma'] else 'fixed_large',
            loss='rescaled_mse' if settings['rescale_learned_sigmas'] else 'mse',
        )
        self.losses = diffusion_objective(self.network, diffusion).losses

    def inputs(self, step: int) -> dict[str, jax.Array]:
        arrays = self.case.arrays
        return {
            'x_0': jnp.asarray(arrays['data'][step].transpose(0, 2, 3, 1)),
            'eps': jnp.asarray(arrays['noise'][step].transpose(0, 2, 3, 1)),
            't': jnp.asarray(arrays['t'][step]),
            'y': jnp.asarray(arrays['y'][step] if 'y' in arrays else np.zeros(self.batch, np.int32)),
            'weight': jnp.asarray(arrays['loss_weights'][step]),
        }

    def replay(self, params: dict, gradients: Callable) -> Iterator[Step]:
        optimizer = make_optimizer(self.config('constant'))
        state, ema = optimizer.init(params), dict.fromkeys(self.train['ema_rate'].split(','), params)

        @jax.jit
        def update(params: dict, state: Any, ema: dict, summed: dict, number: int, lagging: float) -> tuple:
            updates, state = optimizer.update(summed, state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda u: u * lagging, updates))
            square = jax.tree.map(lambda nu: nu / (1 - 0.999**number), optax.tree.get(state, 'nu'))
            return params, state, update_ema(ema, params, number, warmup=False), square

        for number, log in enumerate(self.logs, start=1):
            inputs, before = self.inputs(number - 1), params
            with mock.patch.object(losses, 'discretized_gaussian_log_likelihood', release_log_likelihood):
                summed, values = gradients(params, inputs)
            logged = means(add_up([batch_metrics(values, inputs, self.num_timesteps)]))
            logged |= {'grad_norm': optax.tree.norm(summed), 'param_norm': optax.tree.norm(before)}
            lagging = log['lr_used'] / self.train['lr']
            params, state, ema, square = update(params, state, ema, summed, number, lagging)
            yield Step({name: float(value) for name, value in logged.items()}, summed, square, params, ema)

    def check(self) -> None:
        start = from_reference(self.network, _weights_of(self.case))

        @jax.jit
        def gradients(params: dict, inputs: dict) -> tuple[dict, dict]:
            grads, values = mean_gradients(self.losses, params, inputs, None, self.microbatches)
            return jax.tree.map(lambda g: g * self.microbatches, grads), values

        others = [self.replay(_disturbed(start, seed), gradients) for seed in range(2)]
        reach = jax.tree.map(np.zeros_like, start)
        for log, ours, *near in zip(self.logs, self.replay(start, gradients), *others, strict=True):
            self.check_log(log, ours, near)
            step = self.reach_of_step(log['lr_used'], ours, near)
            reach = jax.tree.map(np.add, reach, step)
        self.check_params(ours, reach)
        self.check_learning_rate()

    def check_log(self, log: dict[str, float], ours: Step, near: list[Step]) -> None:
        assert set(ours.logged) == {
            n for n in log if n.split('_')[0] in ('loss', 'mse', 'vb', 'grad', 'param')
        }
        for name, value in ours.logged.items():
            spread = max(abs(other.logged[name] - value) for other in near)
            quantity = name.split('_q')[0].replace('_', ' ') + ' of a training step'
            tolerance = FREE_RUN_SENSITIVITIES * spread
            compare(quantity, value, log[name], rtol=1e-4, rounding=lambda t=tolerance: t, detail=name)

    def reach_of_step(self, rate: float, ours: Step, near: list[Step]) -> dict:
        """How far one step of Adam may lead two right answers apart, for every parameter.

        Its move lr·m̂/(√v̂ + 1e-8) changes by at most about lr/(√v̂ + 1e-8) for a change of 1 in its gradients,
        and two moves differ by at most 2·lr. The gradients' own uncertainty is the largest change within
        their array when the training starts an ulp away; both sides may be off by twice that.
        """

        def reach(square, gradient, *others):
            rounding = max(np.abs(other - gradient).max() for other in others)
            return rate * np.minimum(2, 4 * rounding / (np.sqrt(square) + 1e-8))

        trees = (ours.square, ours.gradients, *(other.gradients for other in near))
        return jax.tree.map(lambda *arrays: reach(*map(np.asarray, arrays)), *trees)

    def check_params(self, ours: Step, reach: dict) -> None:
        """Seven values of each parameter, and each one's norm."""
        allowed = self.arrays_of(reach)
        averages = {f'ema_{rate}': average for rate, average in ours.ema.items()}
        for name, tree in {'params': ours.params, **averages}.items():
            quantity = 'parameters after training' if name == 'params' else 'averages after training'
            recorded = self.case.arrays[f'{self.run}/{name}']
            rounding = functools.partial(_seven_values, allowed)
            compare(quantity, _seven_values(self.arrays_of(tree)), recorded, atol=1e-6, rounding=rounding)
        compare(
            'norms of parameters after training',
            _norms(self.arrays_of(ours.params)),
            self.case.arrays[f'{self.run}/param_norms'],
            rtol=1e-3,
            rounding=lambda: _norms(allowed),
        )

    def arrays_of(self, tree: dict) -> list[np.ndarray]:
        state = to_reference(self.network, tree)
        return [state[key] for key in self.case.meta['param_names']]

    def check_learning_rate(self) -> None:
        """Ours falls from the first step on; theirs stays for two steps, then is ours of the step before."""
        rate = learning_rate(self.config('linear' if self.train['lr_anneal_steps'] else 'constant'))
        theirs = [float(rate(max(step - 1, 0))) for step in range(self.steps)]
        compare('learning rate', theirs, [log['lr_used'] for log in self.logs], rtol=1e-6)

    def config(self, schedule: str) -> TrainConfig:
        return TrainConfig(
            num_steps=self.train['lr_anneal_steps'] or self.steps,
            batch_size=self.batch,
            learning_rate=self.train['lr'],
            learning_rate_schedule=schedule,
            weight_decay=self.train['weight_decay'],
        )


def _disturbed(params: dict, seed: int) -> dict:
    """Every parameter moved by one ulp, up or down."""
    rng = np.random.default_rng(seed)

    def move(array: jax.Array) -> jax.Array:
        return array * (1 + np.float32(2.0**-23) * rng.choice(np.float32([-1, 1]), array.shape))

    return jax.tree.map(move, params)


def _seven_values(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([a.ravel()[np.linspace(0, a.size - 1, 7).astype(int)] for a in arrays])


def _norms(arrays: list[np.ndarray]) -> list[float]:
    return [np.linalg.norm(a.astype(np.float64)) for a in arrays]


def _weights_of(case: Case) -> dict[str, np.ndarray]:
    """The weights case of the same folder whose network is this case's."""
    folder = case.path.parent
    cases = [Case(path) for path in sorted(folder.glob('*.json'))]
    matches = [c for c in cases if 'key_order' in c.meta and c.meta['config'] == case.meta['config']['unet']]
    return matches[0].arrays


CHECKS = [
    Check('optimizer', lambda case: 'p0' in case.arrays and 'grads' in case.arrays, check_optimizer),
    Check('training', lambda case: 'runs' in case.meta and 'param_names' in case.meta, check_train_steps),
]

"""Checks of recorded cases: optimizer, averages, and whole training steps of the authors' loop."""

from __future__ import annotations

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax.diffusion import losses
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import make_schedule
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.losses import diffusion_losses
from diffusion_jax.training.metrics import add_up, means
from diffusion_jax.training.optimizer import learning_rate, make_optimizer, update_ema
from diffusion_jax.training.step import batch_metrics, mean_gradients
from diffusion_jax.weights.reference import from_reference, to_reference
from tests.parity.case import Case, Check
from tests.parity.diffusion import release_log_likelihood
from tests.parity.models import config_from_arguments


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
            np.testing.assert_allclose(params['p'], case.arrays[f'{run}/params'][step], atol=1e-5, rtol=0)
            for rate in rates:
                expected = case.arrays[f'{run}/ema_{rate}'][step]
                np.testing.assert_allclose(ema[rate]['p'], expected, atol=1e-5, rtol=0)


def check_train_steps(case: Case) -> None:
    """Four steps of the authors' loop: losses, gradient norms, parameters and averages."""
    for run in case.meta['runs']:
        _TrainingRun(case, run).check()


class _TrainingRun:
    """One recorded run, replayed with our gradients, optimizer and averages.

    Three defects of the reference are reproduced here: it adds the gradients of microbatches where we average
    them, its learning rate lags one step behind ours, and it loses the small masses of its likelihood.
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
        schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
        self.losses = diffusion_losses(self.network, diffusion, schedule)

    def inputs(self, step: int) -> dict[str, jax.Array]:
        arrays = self.case.arrays
        return {
            'x_0': jnp.asarray(arrays['data'][step].transpose(0, 2, 3, 1)),
            'eps': jnp.asarray(arrays['noise'][step].transpose(0, 2, 3, 1)),
            't': jnp.asarray(arrays['t'][step]),
            'y': jnp.asarray(arrays['y'][step] if 'y' in arrays else np.zeros(self.batch, np.int32)),
            'weight': jnp.asarray(arrays['loss_weights'][step]),
        }

    def check(self) -> None:
        params = from_reference(self.network, _weights_of(self.case))
        ema = dict.fromkeys(self.train['ema_rate'].split(','), params)
        optimizer = make_optimizer(self.config('constant'))
        state = optimizer.init(params)
        gradients = jax.jit(lambda params, x: mean_gradients(self.losses, params, x, None, self.microbatches))
        for step, log in enumerate(self.logs):
            inputs = self.inputs(step)
            with mock.patch.object(losses, 'discretized_gaussian_log_likelihood', release_log_likelihood):
                grads, values = gradients(params, inputs)
            self.check_log(log, batch_metrics(values, inputs, self.num_timesteps))
            np.testing.assert_allclose(optax.tree.norm(params), log['param_norm'], rtol=1e-4)
            summed = jax.tree.map(lambda g: g * self.microbatches, grads)
            np.testing.assert_allclose(optax.tree.norm(summed), log['grad_norm'], rtol=1e-4)
            updates, state = optimizer.update(summed, state, params)
            lagging = log['lr_used'] / self.train['lr']
            updates = jax.tree.map(lambda u, lagging=lagging: u * lagging, updates)
            params = optax.apply_updates(params, updates)
            ema = update_ema(ema, params, step + 1, warmup=False)
        self.check_params(params, ema)
        self.check_learning_rate()

    def check_log(self, log: dict[str, float], metrics: dict) -> None:
        ours = means(add_up([metrics]))
        names = [name for name in log if name.split('_')[0] in ('loss', 'mse', 'vb')]
        assert set(ours) == set(names)
        for name in names:
            np.testing.assert_allclose(ours[name], log[name], rtol=1e-4, err_msg=name)

    def check_params(self, params: dict, ema: dict[str, dict]) -> None:
        """Seven values of each parameter. Adam makes steps of the learning rate's size out of rounding."""
        atol = self.train['lr']
        averages = {f'ema_{rate}': average for rate, average in ema.items()}
        for name, tree in {'params': params, **averages}.items():
            state = to_reference(self.network, tree)
            arrays = [np.ravel(state[key]) for key in self.case.meta['param_names']]
            ours = np.concatenate([a[np.linspace(0, a.size - 1, 7).astype(int)] for a in arrays])
            expected = self.case.arrays[f'{self.run}/{name}']
            np.testing.assert_allclose(ours, expected, atol=atol, rtol=0, err_msg=name)
            if name == 'params':
                norms = [np.linalg.norm(a.astype(np.float64)) for a in arrays]
                np.testing.assert_allclose(norms, self.case.arrays[f'{self.run}/param_norms'], rtol=1e-3)

    def check_learning_rate(self) -> None:
        """Ours falls from the first step on; theirs stays for two steps, then is ours of the step before."""
        rate = learning_rate(self.config('linear' if self.train['lr_anneal_steps'] else 'constant'))
        theirs = [float(rate(max(step - 1, 0))) for step in range(self.steps)]
        np.testing.assert_allclose(theirs, [log['lr_used'] for log in self.logs], rtol=1e-6)

    def config(self, schedule: str) -> TrainConfig:
        return TrainConfig(
            num_steps=self.train['lr_anneal_steps'] or self.steps,
            batch_size=self.batch,
            learning_rate=self.train['lr'],
            learning_rate_schedule=schedule,
            weight_decay=self.train['weight_decay'],
        )


def _weights_of(case: Case) -> dict[str, np.ndarray]:
    """The weights case of the same folder whose network is this case's."""
    folder = case.path.parent
    cases = [Case(path) for path in sorted(folder.glob('*.json'))]
    matches = [c for c in cases if 'key_order' in c.meta and c.meta['config'] == case.meta['config']['unet']]
    return matches[0].arrays


CHECKS = [
    Check(lambda case: 'p0' in case.arrays and 'grads' in case.arrays, check_optimizer),
    Check(lambda case: 'runs' in case.meta and 'param_names' in case.meta, check_train_steps),
]

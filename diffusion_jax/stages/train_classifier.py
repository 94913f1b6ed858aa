"""Stage `train_classifier`: p(y|x_t), which guides the diffusion model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.pipeline import epoch
from diffusion_jax.data.sources.wrappers import is_readable, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from diffusion_jax.models import Params
from diffusion_jax.sharding import gather_in_step, put_global
from diffusion_jax.stages import fit
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import CLASSIFIER
from diffusion_jax.training.loop import Call, Hook, Stop, leave_if
from diffusion_jax.training.metrics import add_up, means
from diffusion_jax.training.objectives import classifier_objective
from diffusion_jax.training.step import TrainState, batch_metrics

complete = fit.complete


def check(run: Run) -> None:
    if run.experiment.data.num_classes == 1:
        remedy = 'a classifier needs at least two; give --stage=train,sample --config.sample.scale=0'
        raise UserError('config.data.num_classes', 'is 1', remedy)
    fit.check(run, CLASSIFIER)
    assert run.experiment.train_classifier is not None
    if run.experiment.train_classifier.validate_every:
        run.check_images('test')


def locate(run: Run) -> fit.Training:
    process = run.experiment.diffusion
    assert run.experiment.classifier is not None
    objective = classifier_objective(run.experiment.classifier, process)
    return fit.locate(run, CLASSIFIER, objective, process.levels)


def main(run: Run, training: fit.Training) -> None:
    every = training.config.validate_every
    hooks = [Hook('validation', every, _validate(run, training))] if every else []
    fit.fit(run, training, lambda writer: hooks)


def _validate(run: Run, training: fit.Training) -> Call:
    """Loss and accuracy on the test images, each at a random noise level, the same at every validation.

    With data.on_error='skip', `left_out` is the number of unreadable images, which are skipped.
    """
    data, objective, batch_size = run.experiment.data, training.objective, training.config.batch_size
    transform, losses = make_transform(data), gather_in_step(run.mesh, objective.losses)

    @jax.jit
    def evaluate(params: Params, batch: Any, key: jax.Array) -> dict[str, Any]:
        t_key, noise_key = jax.random.split(key)
        t = jax.random.randint(t_key, batch['label'].shape, 0, objective.num_timesteps)
        inputs = objective.draw(noise_key, batch, t) | {'weight': jnp.ones(t.shape)}
        return batch_metrics(losses(params, inputs, None), inputs, objective.num_timesteps)

    source = skipping(run.source('test'), data)

    def validate(step: int, state: TrainState, stop: Stop) -> dict[str, float]:
        keys = (jax.random.fold_in(jax.random.key(0), i) for i in range(len(source)))
        batches = epoch(source, batch_size, transform=transform, num_workers=data.num_workers)
        metrics = []
        for batch, key in zip(batches, keys, strict=False):
            metrics.append(evaluate(state.params, put_global(run.mesh, batch), key))
            leave_if(stop)
        left_out = int((~is_readable(source, np.arange(len(source)))).sum())
        values = means(add_up(metrics)) | ({'left_out': left_out} if left_out else {})
        return {f'validation_{name}': value for name, value in values.items()}

    return validate

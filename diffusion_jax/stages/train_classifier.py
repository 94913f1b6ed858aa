"""Stage `train_classifier`: p(y|x_t), which guides the diffusion model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.pipeline import epoch
from diffusion_jax.data.sources.wrappers import is_readable, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.sharding import gather_in_step, put_global
from diffusion_jax.stages.fit import Training, fit, is_complete
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import CLASSIFIER
from diffusion_jax.training.hooks import Call, Stop, leave_if
from diffusion_jax.training.metrics import add_up, means
from diffusion_jax.training.objectives import Objective, classifier_objective
from diffusion_jax.training.step import TrainState, batch_metrics


def main(run: Run) -> None:
    training = _training(run)
    validates = training.config.validate_every > 0
    calls = {'validation': _validate(run, training.objective)} if validates else {}
    fit(run, training, lambda writer: calls)


def complete(run: Run) -> bool:
    return is_complete(run, _training(run))


def _training(run: Run) -> Training:
    experiment, process = run.experiment, run.experiment.diffusion
    return Training(
        directory=run.workdir / CLASSIFIER,
        network=experiment.classifier,
        objective=classifier_objective(experiment.classifier, process),
        config=experiment.train_classifier,
        process=process.levels,
        pretrained=experiment.pretrained.classifier,
        intervals={'validation': experiment.train_classifier.validate_every},
    )


def _validate(run: Run, objective: Objective) -> Call:
    """Loss and accuracy on the test images, each noised at a random level: the same levels every time.

    With data.on_error='skip' unreadable images are left out, and `left_out` is their number.
    """
    data, batch_size = run.experiment.data, run.experiment.train_classifier.batch_size
    transform, losses = make_transform(data), gather_in_step(run.mesh, objective.losses)

    @jax.jit
    def evaluate(params, batch, key):
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

"""Stage `evaluate`: how good the samples are, in evaluation.json together with how they were made."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import epoch
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import CheckFailed, UserError
from diffusion_jax.evaluation import judge
from diffusion_jax.evaluation.pixels import evaluate_pixels
from diffusion_jax.generation.shards import load_samples
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import SAMPLES_FILE, UNGUIDED, sample_stamp, samples_directory
from diffusion_jax.workdir import check_stamp, normalise, write_json

logger = logging.getLogger(__name__)


def main(run: Run) -> None:
    """Raises CheckFailed, after writing the numbers, where they are below what the config requires."""
    stamp = sample_stamp(run)
    samples = samples_directory(run.workdir, run.experiment.sample.name, stamp)
    check_stamp(samples, stamp)
    result = evaluate(run, samples)
    path = _result_path(run)
    write_json(path, result)
    logger.info('%s:\n%s', path, summary(result))
    if not _good_enough(run, result):
        raise CheckFailed(
            f'{path}: label agreement is {result["label_agreement"]:.1%}; '
            f'config.evaluate.required_agreement demands {run.experiment.evaluate.required_agreement:.1%}'
        )


def complete(run: Run) -> bool:
    """Whether the numbers are those of the samples that are there, and good enough."""
    path = _result_path(run)
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    return result['protocol'] == normalise(_protocol(run)) and _good_enough(run, result)


def _good_enough(run: Run, result: dict[str, Any]) -> bool:
    """What the config requires it requires of its own sampling, not of others that are tried beside it."""
    own = _result_path(run).parent == run.workdir
    return not own or result.get('label_agreement', 1.0) >= run.experiment.evaluate.required_agreement


def evaluate(run: Run, directory: Path) -> dict[str, Any]:
    """Every metric of the samples in a folder, of the unguided ones beside them, and of real images."""
    test, train = (load_split(run.experiment.data, split) for split in ('test', 'train'))
    images, labels = _load(directory)
    result: dict[str, Any] = {'num_samples': len(images)} | evaluate_pixels(images, test)
    # Two sets of real images are this far apart; no sample of a finite size can be much closer.
    result['real_frechet_distance'] = evaluate_pixels(train, test)['frechet_distance']
    judged = run.experiment.evaluate.judge == 'digits_svm'
    if judged:
        result['label_agreement'] = judge.label_agreement(images, labels)
        result['judge_test_accuracy'] = judge.accuracy_on_real_digits()
    if run.experiment.sample.with_unguided:
        images, labels = _load(directory / UNGUIDED)
        unguided = evaluate_pixels(images, test)
        result |= {f'unguided_{name}': value for name, value in unguided.items()}
        if judged:
            result['unguided_label_agreement'] = judge.label_agreement(images, labels)
    return result | {'protocol': _protocol(run)}


def load_split(config: DataConfig, split: str) -> np.ndarray:
    """All images of a split as the network would see them without augmentation, uint8 [N, H, W, C]."""
    transform = make_transform(config)
    batches = epoch(make_source(config, split), 256, transform=transform, num_workers=config.num_workers)
    return np.concatenate([batch['image'] for batch in batches])


def summary(result: dict[str, Any]) -> str:
    """The numbers as a table for people."""
    numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers))
    return '\n'.join(f'  {name.replace("_", " "):<{width}}  {value:.4g}' for name, value in numbers.items())


def _load(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    path = directory / SAMPLES_FILE
    if not path.exists():
        raise UserError(f'{path}: no samples there; run the stage sample with this config first')
    return load_samples(path)


def _result_path(run: Run) -> Path:
    """evaluation.json stands in the workdir for the samples in samples/, else beside the samples."""
    samples = samples_directory(run.workdir, run.experiment.sample.name, sample_stamp(run))
    return (run.workdir if samples == run.workdir / 'samples' else samples) / 'evaluation.json'


def _protocol(run: Run) -> dict[str, Any]:
    """All that one must know to compare the numbers with others."""
    data, stamp = run.experiment.data, sample_stamp(run)
    return stamp.pop('sample') | {
        'steps': len(schedule_of(run.experiment.diffusion, run.experiment.sample.respacing).t),
        'checkpoint_step': stamp['diffusion'].get('step'),
        **stamp,
        'features': 'pixels in [0, 1]',
        'reference': f'{data.name}, {data.test_split} split',
        'judge': run.experiment.evaluate.judge,
    }

"""Stage `evaluate`: how good the samples are, in a JSON file together with how they were made."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.stored.image_set import ImageSet, file_identity
from diffusion_jax.data.stored.samples import open_samples
from diffusion_jax.data.stored.source import open_split
from diffusion_jax.errors import CheckFailed, UserError
from diffusion_jax.evaluation import judge
from diffusion_jax.evaluation.comparison import Side, check_comparable, compare, features_of, open_side
from diffusion_jax.evaluation.config import SPLITS
from diffusion_jax.evaluation.extractors import Extractor, inception_extractor, pixel_extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.frechet import frechet_distance
from diffusion_jax.evaluation.inception.files import load_inception
from diffusion_jax.evaluation.protocol import description, protocol, remarks, sampling_protocol, table
from diffusion_jax.sharding import this_hosts
from diffusion_jax.stages import limits
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import UNGUIDED, is_complete, sample_stamp, samples_directory
from diffusion_jax.workdir import check_stamp, normalise, read_json, write_json

logger = logging.getLogger(__name__)

MAX_DIMENSIONS = 3 * 32 * 32  # of pixels: covariances of larger images take minutes and gigabytes


def main(run: Run) -> None:
    """Raises CheckFailed, after writing the numbers, where they are below what the config requires."""
    run = run._replace(mesh=this_hosts(run.mesh))
    stamp = sample_stamp(run)
    samples = samples_directory(run.workdir, run.experiment.sample.name, stamp)
    check_stamp(samples, stamp)
    with limits.evaluation(run.experiment):
        result = evaluate(run, samples)
    path = _result_path(run)
    if jax.process_index() == 0:
        write_json(path, result)
    logger.info('%s:\n%s\n%s', path, table(result), description(result['protocol']))
    for remark in result['remarks']:
        logger.warning('note: %s', remark)
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
    result = read_json(path, 'remove it to have it computed again')
    return result.get('stamp') == normalise(_stamp(run)) and _good_enough(run, result)


def _good_enough(run: Run, result: dict[str, Any]) -> bool:
    """What the config requires it requires of its own sampling, not of others that are tried beside it."""
    own = _result_path(run).parent == run.workdir
    return not own or result.get('label_agreement', 1.0) >= run.experiment.evaluate.required_agreement


def evaluate(run: Run, directory: Path) -> dict[str, Any]:
    """Every metric of the samples in a folder, of the unguided ones beside them, and of real images."""
    config = run.experiment.evaluate
    extractor, reference = make_extractor(run), reference_side(run)
    features = run.workdir / 'features'
    check_comparable(Side('the samples', None), reference, extractor)
    of_reference = features_of(
        reference, extractor, features / Path(config.reference).stem, run.stop, is_reference=True
    )
    samples, of_samples, result = _compare(run, directory, extractor, of_reference)
    about = protocol(samples, of_samples, reference, of_reference) | extractor.protocol
    if not config.inception:
        result['real_frechet_distance'] = _real_distance(run, extractor)
    if config.judge:
        result['judge_test_accuracy'] = judge.accuracy_on_real_digits()
    if run.experiment.sample.with_unguided:
        *_, unguided = _compare(run, directory / UNGUIDED, extractor, of_reference)
        errors = unguided.pop('standard_errors', {})
        result |= {f'unguided_{name}': value for name, value in unguided.items() if name != 'num_samples'}
        if errors:
            result['standard_errors'] |= {f'unguided_{name}': error for name, error in errors.items()}
    return result | {
        'remarks': remarks(about, of_samples, of_reference),
        'protocol': sampling_protocol(sample_stamp(run)) | about | {'judge': config.judge},
        'stamp': _stamp(run),
    }


def _compare(
    run: Run, directory: Path, extractor: Extractor, of_reference: FeatureSet
) -> tuple[Side, FeatureSet, dict[str, Any]]:
    """The samples in a folder, what is known of them, and their metrics."""
    if not is_complete(directory, run.experiment.sample.num_samples):
        raise UserError(
            f'{directory}: not all samples are there; run the stage sample with this config first'
        )
    images = open_samples(directory)
    samples = Side(str(directory), images)
    bootstrap = run.experiment.evaluate.bootstrap
    known = features_of(samples, extractor, directory / 'features', run.stop, keep_spatial=bootstrap > 0)
    result = {'num_samples': known.num_images}
    result |= compare(known, of_reference, extractor.logits, bootstrap)
    if run.experiment.evaluate.judge:
        result['label_agreement'] = judge.label_agreement(read_all(images), images.labels)
    return samples, known, result


def _real_distance(run: Run, extractor: Extractor) -> float:
    """Two sets of real images are this far apart; no sample of a finite size can be much closer."""
    train, test = (
        features_of(
            Side(split, open_split(run.experiment.data, split)),
            extractor,
            run.workdir / 'features' / split,
            run.stop,
        )
        for split in SPLITS
    )
    return frechet_distance(train.gaussian, test.gaussian)


def make_extractor(run: Run) -> Extractor:
    """What images are compared by."""
    config = run.experiment.evaluate
    if not config.inception:
        return pixel_extractor()
    inception = load_inception(config.inception)
    return inception_extractor(inception, run.mesh, resize=config.resize, batch_size=config.batch_size)


def reference_side(run: Run) -> Side:
    """What the samples are compared with. UserError where it cannot be used."""
    return _open_reference(run.experiment.evaluate.reference, run.experiment.data)


@functools.cache  # a look at every file of a folder can take minutes
def _open_reference(reference: str, data: DataConfig) -> Side:
    if reference in SPLITS:
        images = open_split(data, reference)
        return Side(images.name, images)
    return open_side(reference, data.image_size)


def check_evaluation(run: Run) -> None:
    """UserError where the stage could not do what the config says."""
    data, config = run.experiment.data, run.experiment.evaluate
    dimensions = math.prod(data.image_size) * data.image_channels
    if config.inception:
        load_inception(config.inception)
        reference_side(run)
    elif dimensions > MAX_DIMENSIONS:
        raise UserError(
            f'config.data.image_size gives images of {dimensions} values; pixels of at most {MAX_DIMENSIONS} '
            'are compared; set config.evaluate.inception, or leave evaluate out of the stages'
        )
    if run.experiment.sample.num_samples < 4:
        raise UserError('config.sample.num_samples is below 4; the stage evaluate needs 3 neighbours of each')


def read_all(images: ImageSet) -> np.ndarray:
    """uint8 [N, H, W, C], all of a set."""
    return np.concatenate([images.read(part).images for part in images.parts])


def _result_path(run: Run) -> Path:
    """evaluation.json stands in the workdir for the samples in samples/, else beside the samples; where
    Inception compares them, in evaluation_inception.json."""
    name = 'evaluation_inception.json' if run.experiment.evaluate.inception else 'evaluation.json'
    samples = samples_directory(run.workdir, run.experiment.sample.name, sample_stamp(run))
    return (run.workdir if samples == run.workdir / 'samples' else samples) / name


def _stamp(run: Run) -> dict[str, Any]:
    """What a result rests on."""
    config, reference = run.experiment.evaluate, reference_side(run)
    if reference.images is None:
        looked_at = [file_identity(reference.name)]
    else:
        looked_at = [part.identity for part in reference.images.parts]
    return {
        'samples': sample_stamp(run),
        'evaluate': {k: v for k, v in dataclasses.asdict(config).items() if k != 'required_agreement'},
        'reference': f'{zlib.crc32(" ".join(looked_at).encode()):08x}',
        'inception': file_identity(config.inception) if config.inception else None,
    }

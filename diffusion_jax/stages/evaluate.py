"""Stage `evaluate`: how good the samples are, in a JSON file together with how they were made."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets.base import file_identity
from diffusion_jax.data.image_sets.samples import open_samples
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources import class_names
from diffusion_jax.errors import CheckFailed, UserError
from diffusion_jax.evaluation import judge
from diffusion_jax.evaluation.classes import Matched, Sampled, about_classes, known_classes, match
from diffusion_jax.evaluation.comparison import Side, check_comparable, compare, features_of, open_side
from diffusion_jax.evaluation.config import SPLITS
from diffusion_jax.evaluation.extractors import Extractor, inception_extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.frechet import frechet_distance
from diffusion_jax.evaluation.inception.files import load_inception
from diffusion_jax.evaluation.pixels import image_shape, pixels_of
from diffusion_jax.evaluation.protocol import description, protocol, remarks, sampling_protocol, table
from diffusion_jax.stages import sample
from diffusion_jax.stages.conditioning import classes_to_sample
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import UNGUIDED, is_complete, sample_classes
from diffusion_jax.stages.stamps import Results, stamp_difference
from diffusion_jax.workdir import write_json

logger = logging.getLogger(__name__)


locate = sample.locate  # an evaluation is that of the samples of a run


def main(run: Run, samples: Results) -> None:
    """Raises CheckFailed, after writing the numbers, where they are below what the config requires."""
    with fits(run):
        result = evaluate(run, samples)
    path = _result_path(run, samples)
    if jax.process_index() == 0:
        write_json(path, result)
    logger.info('%s:\n%s\n%s', path, table(result), description(result['protocol']))
    for remark in result['remarks']:
        logger.warning('note: %s', remark)
    if not _good_enough(run, samples, result):
        raise CheckFailed(
            f'{path}: label agreement is {result["label_agreement"]:.1%}; '
            f'config.evaluate.required_agreement demands {run.experiment.evaluate.required_agreement:.1%}; '
            'train longer, or lower it'
        )


def complete(run: Run, samples: Results) -> bool:
    """Whether the numbers are those of the samples that are there, and good enough."""
    try:
        result = json.loads(_result_path(run, samples).read_bytes())
    except (FileNotFoundError, ValueError):  # none, or one that is damaged: it is made again
        return False
    if 'stamp' not in result or not _same(result['stamp'], _stamp(run, samples)):
        return False
    return _good_enough(run, samples, result)


def _same(stored: dict[str, Any], stamp: dict[str, Any]) -> bool:
    of_samples = stamp_difference(stored['samples'], stamp['samples'])
    return not of_samples and not stamp_difference(stored | {'samples': 0}, stamp | {'samples': 0})


def _good_enough(run: Run, samples: Results, result: dict[str, Any]) -> bool:
    """What the config requires it requires of its own sampling, not of others that are tried beside it."""
    own = samples.directory == run.workdir / 'samples'
    return not own or result.get('label_agreement', 1.0) >= run.experiment.evaluate.required_agreement


def evaluate(run: Run, results: Results) -> dict[str, Any]:
    """Every metric of the samples in a folder, of the unguided ones in `unguided`, and of real images."""
    config, guided = run.experiment.evaluate, run.experiment.sample.guided
    matched = matched_reference(run, guided=guided)
    reference, extractor = matched.side, make_extractor(run, matched.side)
    of_reference = reference_features(run, reference, extractor)
    samples, of_samples, result = _compare(run, results.directory, extractor, of_reference)
    of_classes, found = about_classes(matched)
    if matched.sampled is None:
        of_classes = {'class_balance': 'drawn without classes'}
    about = protocol(samples, of_samples, reference, of_reference) | of_classes | extractor.protocol
    found += remarks(about, of_samples, of_reference)
    if not config.inception and config.reference in SPLITS:
        result['real_frechet_distance'] = _real_distance(run, extractor)
    if config.judge:
        result['judge_test_accuracy'] = judge.accuracy_on_real_digits()
    if run.experiment.sample.with_unguided:
        *_, unguided = _compare(run, results.directory / UNGUIDED, extractor, of_reference)
        errors = unguided.pop('standard_errors', {})
        result |= {f'unguided_{name}': value for name, value in unguided.items() if name != 'num_samples'}
        if errors:
            result['standard_errors'] |= {f'unguided_{name}': error for name, error in errors.items()}
        if matched.by and classes_to_sample(run, 1, guided=False) is None:
            found.append('the unguided samples are of any class; the reference is the same as of the guided')
    return result | {
        'remarks': found,
        'protocol': sampling_protocol(results.stamp) | about | {'judge': config.judge},
        'stamp': _stamp(run, results),
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
        result['label_agreement'] = judge.label_agreement(images.read_all(), images.labels)
    return samples, known, result


def _real_distance(run: Run, extractor: Extractor) -> float:
    """Two sets of real images are this far apart; no sample of a finite size can be much closer."""
    guided = run.experiment.sample.guided
    sides = (matched_reference(run, split, guided=guided).side for split in SPLITS)
    train, test = (
        features_of(side, extractor, run.workdir / 'features' / f'{split}{side.part}', run.stop)
        for split, side in zip(SPLITS, sides, strict=True)
    )
    return frechet_distance(train.gaussian, test.gaussian)


def make_extractor(run: Run, reference: Side) -> Extractor:
    """What images are compared by. UserError where the samples and the reference cannot be."""
    data, config = run.experiment.data, run.experiment.evaluate
    if config.inception:
        inception = load_inception(config.inception)
        extractor = inception_extractor(
            inception, run.mesh, resize=config.resize, batch_size=config.batch_size
        )
    elif reference.stored.gaussian is not None:
        raise UserError(
            f'config.evaluate.reference is {config.reference!r}, a file of statistics or features; samples '
            'are images: set config.evaluate.inception, or give images, or compare files of features by '
            '`diffusion-jax evaluate SAMPLES.npy REFERENCE.npy`'
        )
    else:
        ours = (*data.image_size, data.image_channels)
        theirs = ours if config.reference in SPLITS else image_shape(reference.images)
        shapes = {'config.data.image_size': ours, reference.name: theirs}
        extractor = pixels_of(shapes, 'config.evaluate.inception', 'leave evaluate out of the stages')
    check_comparable(Side('the samples', None), reference, extractor)
    return extractor


def reference_features(run: Run, reference: Side, extractor: Extractor) -> FeatureSet:
    """Those of the reference; they stay in the workdir."""
    name = f'{Path(run.experiment.evaluate.reference).stem}{reference.part}'
    return features_of(reference, extractor, run.workdir / 'features' / name, run.stop, is_reference=True)


def matched_reference(run: Run, split: str = '', *, guided: bool, num_samples: int | None = None) -> Matched:
    """What samples are compared with, of their classes alone where that can be.

    Args:
        split: instead of what the config names.
        num_samples: instead of the number of the stage `sample`.

    Raises:
        UserError: it cannot be used.
    """
    sampled = classes_to_sample(run, num_samples or run.experiment.sample.num_samples, guided=guided)
    if sampled is not None:
        names = sample_classes(run) or _names_of_images(run)
        sampled = sampled._replace(names=names if len(names) == sampled.num_classes else ())
    return _match(split or run.experiment.evaluate.reference, run.experiment.data, sampled)


def _names_of_images(run: Run) -> tuple[str, ...]:
    """Of the classes of the training images; () where these are not at hand, as for pretrained networks."""
    try:
        return class_names(run.source('train'))
    except UserError:
        return ()


@functools.cache
def _match(reference: str, data: DataConfig, sampled: Sampled | None) -> Matched:
    side = _open_reference(reference, data)
    if sampled is None or (sampled.all and reference in SPLITS):
        return Matched(side, sampled)
    classes = None if side.images is None else known_classes(side.images)
    return match(sampled, side, classes, restrict=True)


@functools.cache  # a look at every file of a folder can take minutes
def _open_reference(reference: str, data: DataConfig) -> Side:
    if reference in SPLITS:
        images = open_split(data, reference)
        return Side(images.name, images)
    return open_side(reference, data.image_size)


def check(run: Run, *, guided: bool | None = None) -> None:
    """UserError where the stage could not do what the config says."""
    for split in run.experiment.evaluate.splits:
        run.source(split)
    guided = run.experiment.sample.guided if guided is None else guided
    make_extractor(run, matched_reference(run, guided=guided).side)
    if run.experiment.sample.num_samples < 4:
        raise UserError('config.sample.num_samples is below 4; the stage evaluate needs 3 neighbours of each')


def fits(run: Run) -> AbstractContextManager[None]:
    setting = 'evaluate.batch_size' if run.experiment.evaluate.inception else 'sample.num_samples'
    return run.fits('the evaluation', setting)


def _result_path(run: Run, samples: Results) -> Path:
    """evaluation.json stands in the workdir for the samples in samples/, else beside the samples; where
    Inception compares them, in evaluation_inception.json."""
    name = 'evaluation_inception.json' if run.experiment.evaluate.inception else 'evaluation.json'
    own = samples.directory == run.workdir / 'samples'
    return (run.workdir if own else samples.directory) / name


def _stamp(run: Run, samples: Results) -> dict[str, Any]:
    """What a result rests on."""
    config = run.experiment.evaluate
    reference = matched_reference(run, guided=run.experiment.sample.guided).side
    if reference.images is None:
        looked_at = [file_identity(reference.name)]
    else:
        looked_at = [part.identity for part in reference.images.parts]
    return {
        'samples': samples.stamp,
        'evaluate': {k: v for k, v in dataclasses.asdict(config).items() if k != 'required_agreement'},
        'reference': f'{zlib.crc32(" ".join(looked_at).encode()):08x}',
        'inception': file_identity(config.inception) if config.inception else None,
    }

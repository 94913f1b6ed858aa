"""Stage `evaluate`: metrics of the samples, in a JSON file together with how they were made."""

import contextlib
import dataclasses
import functools
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.data.image_sets.base import ArrayImages, even_parts, file_identity
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources import class_names
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation import comparison
from diffusion_jax.evaluation.classes import Sampled, known_classes, match
from diffusion_jax.evaluation.config import SPLITS
from diffusion_jax.evaluation.eval_set import EvalSet, make_extractor, open_eval_set, with_images
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.feature_stats import LEAST_IMAGES
from diffusion_jax.evaluation.protocol import report, sampling_protocol
from diffusion_jax.stages import base, sample
from diffusion_jax.stages.drawing import is_complete
from diffusion_jax.stages.labels import load_labels
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import UNGUIDED, sample_classes
from diffusion_jax.stages.stamps import Results, stamp_difference
from diffusion_jax.workdir import write_json

logger = logging.getLogger(__name__)

locate = sample.locate  # an evaluation is one of samples


def check(run: Run) -> None:
    """Raises UserError if the samples could not be compared with the reference."""
    extractor_of(run, open_reference(run))
    num_samples = run.experiment.sample.num_samples
    if num_samples < LEAST_IMAGES:
        raise UserError('config.sample.num_samples', f'got {num_samples}', f'evaluate needs {LEAST_IMAGES}')


def complete(run: Run, samples: Results) -> bool:
    """Whether a result exists that is of these samples and settings."""
    try:
        stored = json.loads(_result_path(run, samples).read_bytes())['stamp']
    except (FileNotFoundError, ValueError, KeyError):  # missing or damaged
        return False
    stamp = _stamp(run, samples)
    different = stamp_difference(stored['samples'], stamp['samples'])
    return not different and not stamp_difference(stored | {'samples': 0}, stamp | {'samples': 0})


def main(run: Run, samples: Results) -> None:
    with fits(run):
        result = evaluate(run, samples)
    path = _result_path(run, samples)
    if jax.process_index() == 0:
        write_json(path, result)
    logger.info('%s:\n%s', path, report(result))
    for remark in result['remarks']:
        logger.warning('note: %s', remark)


def evaluate(run: Run, samples: Results) -> dict[str, Any]:
    """The result for the samples; as unguided_<metric> also the metrics of those in the folder `unguided`."""
    reference = open_reference(run)
    extractor = extractor_of(run, reference)
    result = _evaluate_folder(run, samples.directory, reference, extractor)
    conditions, remarks = sampling_protocol(samples.stamp) | result.pop('protocol'), result.pop('remarks')
    if classes_to_sample(run) is None:
        conditions['class_balance'] = 'drawn without classes'
    if run.experiment.sample.with_unguided:
        unguided = _evaluate_folder(run, samples.directory / UNGUIDED, reference, extractor)
        result |= {f'unguided_{name}': x for name, x in unguided.items() if isinstance(x, float)}
        if errors := unguided.get('standard_errors'):
            result['standard_errors'] |= {f'unguided_{name}': x for name, x in errors.items()}
        if reference.classes and classes_to_sample(run.unguided()) is None:
            remarks.append('the unguided samples are of any class; their reference is that of the guided')
    return result | {'remarks': remarks, 'protocol': conditions, 'stamp': _stamp(run, samples)}


def _evaluate_folder(run: Run, directory: Path, reference: EvalSet, extractor: Extractor) -> dict[str, Any]:
    if not is_complete(directory, run.experiment.sample.num_samples):
        raise UserError(f'{directory}', 'samples are missing', 'run the stage sample with this config first')
    samples = EvalSet(str(directory), open_samples(directory), directory=directory / 'features')
    return comparison.evaluate(samples, reference, extractor, run.stop, run.experiment.evaluate.bootstrap)


def extractor_of(run: Run, reference: EvalSet) -> Extractor:
    """The extractor for samples and reference. Raises UserError if they cannot be compared."""
    data = run.experiment.data
    blank = np.zeros((1, *data.image_size, data.image_channels), np.uint8)  # before samples exist
    images = ArrayImages('', None, even_parts(1, lambda start, stop: ''), blank)
    samples, setting = EvalSet('config.data.image_size', images), 'config.evaluate.inception'
    extractor = make_extractor(samples, reference, run.experiment.evaluate, run.mesh, setting)
    assert extractor is not None  # as samples are images
    return extractor


def open_reference(run: Run) -> EvalSet:
    """The set that samples are compared with, restricted to their classes if possible."""
    config, data = run.experiment.evaluate, run.experiment.data
    return _open_reference(config.reference, data, classes_to_sample(run), run.workdir / 'features')


def classes_to_sample(run: Run) -> Sampled | None:
    """The classes that the samples will have, and their names if known; None if networks know no classes."""
    config, unet = run.experiment.sample, run.experiment.unet
    num_classes: Any = run.experiment.data.num_classes
    if unet.num_classes is None and (unet.low_res or not config.guided):
        return None
    if unet.low_res and not base.is_sampled(run):
        labels = base.open_base(run)[1]
    elif config.labels_from_file:
        labels = load_labels(run)
    else:
        labels = np.array(config.classes or range(num_classes))
    if config.labels != 'random':  # any class may occur among random labels
        labels = labels[: config.num_samples // config.as_recipe().sampler.population]
    names = sample_classes(run)
    if not names:
        with contextlib.suppress(UserError):  # of a pretrained network the images may not be available
            names = class_names(run.source('train'))
    names = names if len(names) == num_classes else ()
    return Sampled(tuple(np.unique(labels).tolist()), num_classes, names)


@functools.cache  # opening a folder can take minutes
def _open_reference(reference: str, data: DataConfig, sampled: Sampled | None, directory: Path) -> EvalSet:
    if reference in SPLITS:
        opened = with_images(open_split(data, reference))
        sampled = None if sampled is None or sampled.all else sampled  # labels can be slow to read
    else:
        opened = open_eval_set(reference, data.image_size)
    opened = opened._replace(directory=directory / Path(reference).stem)
    return match(sampled, opened, known_classes(opened.images)) if sampled else opened


def fits(run: Run) -> contextlib.AbstractContextManager[None]:
    """If the block runs out of memory, raises UserError with the setting to lower."""
    setting = 'evaluate.batch_size' if run.experiment.evaluate.inception else 'sample.num_samples'
    return run.fits('the evaluation', setting)


def _result_path(run: Run, samples: Results) -> Path:
    """In the workdir for the samples in samples/, otherwise in the folder of the samples."""
    name = 'evaluation_inception.json' if run.experiment.evaluate.inception else 'evaluation.json'
    first = samples.directory == run.workdir / 'samples'
    return (run.workdir if first else samples.directory) / name


def _stamp(run: Run, samples: Results) -> dict[str, Any]:
    """What a result depends on."""
    config, reference = run.experiment.evaluate, open_reference(run)
    if reference.images is None:
        identities = [file_identity(reference.name)]
    else:
        identities = [part.identity for part in reference.images.parts]
    return {
        'samples': samples.stamp,
        'evaluate': dataclasses.asdict(config),
        'reference': f'{zlib.crc32(" ".join(identities).encode()):08x}',
        'inception': file_identity(config.inception) if config.inception else None,
    }

"""The images that an upsampler enlarges: those of a base model, which are sampled first, or given ones."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.checks import given_by, in_section
from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.data.image_sets.archive import open_samples, shard_folder
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.image_sets.pictures import open_pictures, picture_files
from diffusion_jax.diffusion.parts import Part
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation import cascade, loading, requests
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.labels import number_of_classes
from diffusion_jax.hosts import any_process
from diffusion_jax.shards import list_shards
from diffusion_jax.stages import networks, stamps
from diffusion_jax.stages.drawing import draw_missing, is_complete
from diffusion_jax.stages.labels import checked_labels, requested_labels
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.stamps import Results
from diffusion_jax.stored_networks import CHECKPOINTS, DIFFUSION
from diffusion_jax.workdir import write_stamp

SETTING = 'config.sample.base_samples'
MOST_READ = 1_000  # given images that are read before the first is enlarged; this takes seconds


def is_sampled(run: Run) -> bool:
    """Whether a base model samples the images; otherwise they are given."""
    return bool(run.experiment.base.diffusion)


def check(run: Run) -> None:
    """Raises UserError unless there will be images that the upsampler can enlarge."""
    if not is_sampled(run):
        images = open_base(run)[0]
        images.take(np.arange(min(len(images), run.experiment.sample.num_samples, MOST_READ)))
        return
    path, experiment = run.experiment.base.diffusion, run.experiment
    model, _, recipe = _describe(run)
    cascade.check_base(model.unet, experiment.unet, experiment.data.low_res_size, path)
    num_classes = number_of_classes(model, recipe)
    if num_classes not in (None, experiment.data.num_classes):
        remedy = f'config.data.num_classes is {experiment.data.num_classes}; they must be the same'
        raise UserError(path, f'samples {num_classes} classes', remedy)
    check_same_classes(path, model.classes, *networks.classes_of(run, DIFFUSION))
    requested_labels(run)


def open_base(run: Run) -> tuple[ImageSet, np.ndarray]:
    """The images, and their labels [N]. Only the first of given images is read.

    Raises UserError if they do not exist, or do not fit the upsampler.
    """
    if is_sampled(run):
        sampled = open_samples(locate(run).directory)
        assert sampled.labels is not None
        return sampled, sampled.labels
    data, unet, base = run.experiment.data, run.experiment.unet, _open_given(run)
    shape, expected = base.take(np.arange(1)).shape[1:], (*data.low_res_size, data.image_channels)  # type: ignore[misc]
    if shape != expected:
        raise UserError(base.name, f'the images have shape {shape}', f'this upsampler needs {expected}')
    if unet.num_classes is None:
        return base, np.zeros(len(base), np.int64)
    config = run.experiment.sample
    if config.classes or config.labels_from_file:
        if base.labels is not None:
            setting = 'classes' if config.classes else 'labels'
            problem = f'is set, but the images in {base.name} have labels'
            raise UserError(f'config.sample.{setting}', problem, 'leave it out')
        return base, requested_labels(run)(np.arange(len(base)))
    if base.labels is None:
        remedy = 'name their classes by config.sample.classes, or give a file of them as config.sample.labels'
        raise UserError(base.name, 'the images have no labels, but the upsampler needs them', remedy)
    return base, checked_labels(base.name, base.labels, data.num_classes)


def locate(run: Run) -> Results:
    """The folder of the base model's samples, and their stamp."""
    _, paths, recipe = _describe(run)
    config = run.experiment.sample
    made_by = {
        'sampler': _text(recipe.sampler),
        'guidance': _text(recipe.guidance),
        'respacing': recipe.respacing,
        'timesteps': recipe.timesteps,
        'clip': recipe.clip,
    }
    stamp: dict[str, Any] = {
        'sample': made_by | {key: getattr(config, key) for key in ('seed', 'labels', 'classes')}
    }
    for name, path in paths.items():
        stamp[name] = networks.stored_stamp(path, run.workdir)
        stamp[name]['ema_rate'] = loading.average_of(path, name)
    if config.labels_from_file:
        stamp['labels'] = content_digest(config.labels)
    return stamps.locate(run.workdir / 'base', 'sample', stamp)


def identity(run: Run) -> Any:
    """What the images depend on: the stamp of the base model's samples, or a digest of given images."""
    return locate(run).stamp if is_sampled(run) else content_digest(run.experiment.sample.base_samples)


def seed(run: Run) -> int:
    """The seed of the upsampler's noise, which differs from that of base images that are sampled here."""
    given = run.experiment.sample.seed
    return cascade.upsampler_seed(given) if is_sampled(run) else given


def draw(run: Run) -> None:
    """Samples the missing images of the base model."""
    config, (directory, stamp) = run.experiment.base, locate(run)
    if not any_process(not is_complete(directory, run.experiment.sample.num_samples)):
        return
    recipe, labels = _describe(run)[2], requested_labels(run)
    dtype = run.experiment.unet.dtype
    model = loading.load(config.diffusion, config.classifier or None, dtype=dtype, mesh=run.mesh)
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
    population = recipe.sampler.population

    def batch(index: np.ndarray, progress: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray]:
        y = labels(index // population)
        how: dict[str, Any] = {'first': int(index[0]), 'seed': run.experiment.sample.seed, 'recipe': recipe}
        with run.fits('sampling base images', 'sample.batch_size'):
            return model.sample(len(index), y, progress=progress, **how).images, y

    draw_missing(run, directory, 'base images', batch, population)


def content_digest(path: str) -> str:
    """Stands for the content of a file, of all shards in a folder of samples, or of a folder of pictures."""
    place = _samples_of(Path(path))
    folder = shard_folder(place) if place.is_dir() else None
    files = [shard.path for shard in list_shards(folder)] if folder else picture_files(place)
    digests = []
    for file_path in files:
        with open(file_path, 'rb') as file:
            digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
    return hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]


def _describe(run: Run) -> tuple[Generator, dict[str, Path], Recipe]:
    """The base model without parameters, where its networks are stored, and the recipe of its samples."""
    config, dtype = run.experiment.base, run.experiment.unet.dtype
    with given_by('config.base'):
        model, paths = loading.describe(
            config.diffusion, config.classifier or None, dtype=dtype, mesh=run.mesh
        )
    scale = None if config.scale is None else np.float32(config.scale)
    return model, paths, in_section('base', requests.read_recipe, model, config.recipe or None, scale)


def _text(value: Any) -> str:
    """A part of a recipe with the fields that are not the defaults, such as ClassifierGuidance(scale=2.0).

    New fields with defaults do not change it.
    """
    if isinstance(value, tuple):
        return '+'.join(map(_text, value))
    if not isinstance(value, Part):
        return str(value)
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    given = [f'{field.name}={_text(found)}' for field, found in fields if found != field.default]
    return f'{type(value).__name__}({", ".join(given)})'


def _open_given(run: Run) -> ImageSet:
    data, given = run.experiment.data, run.experiment.sample.base_samples
    assert data.low_res_size is not None
    if not given:
        problem = 'is not set, but an upsampler needs images to enlarge'
        remedy = 'give a folder of samples or pictures, an image file or an npz; or config.base.diffusion'
        raise UserError(SETTING, problem, remedy)
    path = _samples_of(Path(given))
    if path.is_dir() and shard_folder(path) is not None:
        return open_samples(path)
    if (path / DIFFUSION / CHECKPOINTS).is_dir() or (path / CHECKPOINTS).is_dir():
        problem = 'is a run or a training without samples'
        raise UserError(given, problem, f'sample it in this run: --config.base.diffusion={given}')
    with given_by(SETTING):
        return open_pictures(path, data.low_res_size, data.image_channels)


def _samples_of(path: Path) -> Path:
    """The samples of a run, if it has any; else the path itself."""
    samples = path / 'samples'
    return samples if samples.is_dir() and shard_folder(samples) is not None else path

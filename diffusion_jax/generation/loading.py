"""Opens stored networks as a Generator: files of weights, folders of training, and runs."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.checks import one_of
from diffusion_jax.compilation_cache import compile_fast_on_gpus, use_compilation_cache
from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.options import check_respacing
from diffusion_jax.memory import out_of_memory
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.config import DTYPES
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stored_networks import (
    CHECKPOINTS,
    CLASSIFIER,
    DIFFUSION,
    contents,
    default_average,
    describe_stored,
    is_file,
    load_stored,
)
from diffusion_jax.weights.files import Spec
from diffusion_jax.weights.released import RELEASED, Recipes
from diffusion_jax.workdir import read_stamp

logger = logging.getLogger(__name__)

SAMPLES = 'samples'  # the folder of a run in which its samples are


@out_of_memory('loading weights', 'free memory of the devices, or use larger ones')
def load(
    diffusion: str | Path,
    classifier: str | Path | None = None,
    *,
    dtype: str = 'float32',
    mesh: jax.sharding.Mesh | None = None,
) -> Generator:
    """Opens a diffusion model, and the classifier that guides it.

    Compiled programs are kept for the next process, as the programs of the command line are: see
    `use_compilation_cache`, which says how to turn that off.

    Args:
        diffusion: a file of weights, such as `diffusion-jax convert` writes; a folder of training, such as
            runs/digits/diffusion; or a run, such as runs/digits: its diffusion model and, where it has one,
            its classifier.
        classifier: likewise; instead of the run's.
        dtype: of the computation; 'bfloat16' is meant for TPUs and GPUs.
        mesh: by default over all devices, each with all parameters; `make_mesh(fsdp=8)` splits them over 8.

    Returns:
        A Generator. By default a released model is sampled by the paper's recipe, and a model of a run by
        that of the run's samples ('run'), from the average of its parameters that these were made with.
        Otherwise it is DDPM in 250 steps ('default'), and the average of the highest rate kept.

    Raises:
        UserError: nothing of that kind is stored there, or the two networks do not fit together.
    """
    one_of('dtype', dtype, DTYPES)
    use_compilation_cache()
    compile_fast_on_gpus()
    mesh = make_mesh() if mesh is None else mesh
    run = Path(file_path(diffusion))
    places = {DIFFUSION: _place(run, DIFFUSION)}
    guide = classifier if classifier is not None else run if _is_guided_run(run) else None
    if guide is not None:
        places[CLASSIFIER] = _place(Path(file_path(guide)), CLASSIFIER)
    stored = {name: describe_stored(path) for name, path in places.items()}
    model = stored[DIFFUSION]
    if not isinstance(model.network, UNetConfig):
        raise UserError(f'{places[DIFFUSION]}: holds a classifier; give it as the second argument')
    if guide is not None:
        check_guide(stored[CLASSIFIER], model, places[CLASSIFIER])
    elif CLASSIFIER in (_samples_stamp(places[DIFFUSION]) or {}):
        logger.warning(
            '%s: its samples were guided by a classifier that is not in the run; give it as the second '
            'argument, without it sampling is unguided',
            places[DIFFUSION].parent,
        )
    params = {
        name: load_stored(path, stored[name].network, mesh, _average(path, name))[0]
        for name, path in places.items()
    }
    configs = {name: dataclasses.replace(weights.network, dtype=dtype) for name, weights in stored.items()}
    return Generator(
        unet=configs[DIFFUSION],
        diffusion=model.diffusion,
        params=params,
        mesh=mesh,
        classifier=configs.get(CLASSIFIER),
        classes=next((weights.classes for weights in stored.values() if weights.classes), ()),
        recipes=_recipes(places[DIFFUSION], model, guide is not None, asked=classifier is not None),
    )


def check_guide(guide: Spec, model: Spec, path: str | Path) -> None:
    """UserError unless a classifier can guide a model."""
    if not isinstance(guide.network, ClassifierConfig):
        raise UserError(f'{path}: holds no classifier; give it as the first argument')
    shared = ('image_size', 'image_channels', 'num_classes')
    theirs = {name: getattr(guide.network, name) for name in shared} | guide.diffusion.levels
    ours = {name: getattr(model.network, name) for name in shared} | model.diffusion.levels
    for name, value in ours.items():
        if value is not None and theirs[name] != value:
            raise UserError(f'{path}: {name} is {theirs[name]}; that of the diffusion model is {value}')
    if model.network.num_classes is not None:
        check_same_classes(str(path), guide.classes, 'the diffusion model', model.classes)


def _is_run(path: Path) -> bool:
    return any((path / name / CHECKPOINTS).is_dir() for name in (DIFFUSION, CLASSIFIER))


def _is_guided_run(path: Path) -> bool:
    return _is_run(path) and (path / CLASSIFIER / CHECKPOINTS).is_dir()


def _place(path: Path, name: str) -> Path:
    """The file or the folder of training in which a network is stored; `path` may also be a run."""
    if is_file(path) or not _is_run(path):
        return path
    if not (path / name).is_dir():
        raise UserError(
            f'{path}: is a run without {name}/ (it holds {contents(path)}); give a folder of training or a '
            'file of weights'
        )
    return path / name


def _samples_stamp(place: Path) -> dict[str, Any] | None:
    """The stamp of the run's samples that were made with the network in a folder of training."""
    stamp = None if is_file(place) else read_stamp(place.parent / SAMPLES)
    if stamp is None or place.name not in stamp:
        return None
    return stamp if place.parent / stamp[place.name].get('folder', '') == place else None


def _sampled(place: Path) -> SampleConfig | None:
    """The settings of these samples."""
    stamp = _samples_stamp(place)
    if stamp is None:
        return None
    known = {field.name for field in dataclasses.fields(SampleConfig)}
    return SampleConfig(**{name: value for name, value in stamp['sample'].items() if name in known})


def _average(place: Path, name: str) -> float:
    """The rate of the average that is loaded."""
    config = _sampled(place)
    if config is None:
        return default_average(place)
    return {DIFFUSION: config.ema_rate, CLASSIFIER: config.classifier_ema_rate}[name]


def _recipes(place: Path, model: Spec, guided: bool, *, asked: bool) -> Recipes:
    """The recipes of a model, the default first; without a classifier they are not guided by one.

    asked: the caller gave the classifier; otherwise a run's own recipe is used as it is.
    """
    config = _sampled(place)
    if model.name in RELEASED:
        recipes = RELEASED[model.name].recipes
    elif config is not None:
        recipe = config.as_recipe()
        if asked and 'log_prob' not in recipe.needs:
            recipe = dataclasses.replace(recipe, guidance=(*recipe.guidance, ClassifierGuidance()))
        recipes = (('run', recipe),)
    else:
        guidance = (ClassifierGuidance(),)
        recipes = (
            ('default', Recipe(DDPM(), guidance, _steps(model.diffusion, '250'))),
            ('ddim', Recipe(DDIM(), guidance, _steps(model.diffusion, 'ddim25'))),
        )
    return recipes if guided else tuple((name, recipe.without_classifier()) for name, recipe in recipes)


def _steps(process: DiffusionConfig, respacing: str) -> str:
    """A respacing, or all steps where the process does not have these."""
    try:
        check_respacing(process, respacing)
    except UserError:
        return ''
    return respacing

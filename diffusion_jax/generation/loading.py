"""Opens stored networks as a Generator: files of weights, folders of training, and runs."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.checks import one_of
from diffusion_jax.compilation_cache import compile_fast_on_gpus, use_compilation_cache
from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.networks import WEAK, Networks
from diffusion_jax.generation.stored_grids import stored_grids
from diffusion_jax.memory import out_of_memory
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.config import DTYPES
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stored_networks import (
    CLASSIFIER,
    DIFFUSION,
    default_average,
    describe_stored,
    is_file,
    load_stored,
    stored_path,
)
from diffusion_jax.weights.files import Spec
from diffusion_jax.weights.known import MODELS
from diffusion_jax.weights.published import Recipes
from diffusion_jax.workdir import read_stamp

logger = logging.getLogger(__name__)


@out_of_memory('loading weights', 'free memory of the devices, or use larger ones')
def load(
    diffusion: str | Path,
    classifier: str | Path | None = None,
    *,
    weak: str | Path | None = None,
    dtype: str = 'float32',
    mesh: jax.sharding.Mesh | None = None,
) -> Generator:
    """Opens a diffusion model, and the classifier that guides it.

    By default a published model is sampled by the recipe of its authors, and a model of a run by that of
    the run's samples ('run'), from the same average of its parameters. Any other model is sampled by DDPM in
    250 steps ('default'), from the average of the highest rate.

    Compiled programs are kept for the next process: see `use_compilation_cache`.

    Args:
        diffusion: a file of weights, also a published .pt file as it is (which needs PyTorch); a folder of
            training, such as runs/digits/diffusion; or a run, such as runs/digits: its diffusion model and
            its classifier, if any.
        classifier: likewise; instead of the run's.
        weak: likewise; a second diffusion model of the same images and noise levels, for the guidance 'auto'.
        dtype: of the computation.
        mesh: by default over all devices, each with all parameters; `make_mesh(fsdp=8)` splits them over 8.
    """
    use_compilation_cache()
    compile_fast_on_gpus()
    model, paths = describe(diffusion, classifier, weak=weak, dtype=dtype, mesh=mesh)
    weak_unet = model.weak.unet if model.weak else None
    networks: dict[str, Any] = {DIFFUSION: model.unet, CLASSIFIER: model.classifier, WEAK: weak_unet}
    params = {
        name: load_stored(path, networks[name], model.mesh, average_of(path, name))[0]
        for name, path in paths.items()
    }
    return dataclasses.replace(model, params=params)


def describe(
    diffusion: str | Path,
    classifier: str | Path | None = None,
    *,
    weak: str | Path | None = None,
    dtype: str = 'float32',
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Generator, dict[str, Path]]:
    """What `load` returns, without parameters, and the file or folder of each network by its name."""
    one_of('dtype', dtype, DTYPES)
    mesh = make_mesh() if mesh is None else mesh
    paths = {DIFFUSION: stored_path(diffusion, DIFFUSION)}
    guide = stored_path(diffusion if classifier is None else classifier, CLASSIFIER)
    guided = classifier is not None or guide != Path(file_path(diffusion))
    if guided:
        paths[CLASSIFIER] = guide
    if weak is not None:
        paths[WEAK] = stored_path(weak, DIFFUSION)
    stored = {name: describe_stored(path) for name, path in paths.items()}
    _check_networks(paths, stored)
    configs: dict[str, Any] = {
        name: dataclasses.replace(weights.network, dtype=dtype) for name, weights in stored.items()
    }
    model = Generator(
        unet=configs[DIFFUSION],
        diffusion=stored[DIFFUSION].diffusion,
        params={},
        mesh=mesh,
        classifier=configs.get(CLASSIFIER),
        classes=next((weights.classes for weights in stored.values() if weights.classes), ()),
        recipes=_recipes(paths[DIFFUSION], stored[DIFFUSION], guided, given=classifier is not None),
        marks=MODELS[name].marks(guided) if (name := stored[DIFFUSION].name) in MODELS else (),
        weak=Networks(configs[WEAK], stored[WEAK].diffusion, mesh=mesh) if WEAK in paths else None,
        low_res_size=stored[DIFFUSION].low_res_size,
        grids=tuple(stored_grids(paths[DIFFUSION]).items()),
    )
    return model, paths


def _check_networks(paths: dict[str, Path], stored: dict[str, Spec]) -> None:
    """UserError unless one is a diffusion model, and the others, if any, can guide it."""
    path, model = paths[DIFFUSION], stored[DIFFUSION]
    if not isinstance(model.network, UNetConfig):
        raise UserError(str(path), 'holds a classifier', 'give it as the second argument')
    if WEAK in stored:
        check_weak(stored[WEAK], model, paths[WEAK])
    if CLASSIFIER in stored:
        check_guide(stored[CLASSIFIER], model, paths[CLASSIFIER])
    elif CLASSIFIER in _samples_stamp(path):
        logger.warning(
            '%s: its samples were guided by a classifier that is not loaded, so sampling is unguided; give '
            'the classifier as the second argument of load',
            path.parent,
        )


def check_weak(weak: Spec, model: Spec, path: str | Path) -> None:
    """UserError unless a diffusion model can be the weak one for a model."""
    if not isinstance(weak.network, UNetConfig):
        raise UserError(str(path), 'holds a classifier', 'give a diffusion model as weak')
    _check_same(['low_res'], weak, model, path, classes=weak.network.num_classes is not None)


def check_guide(guide: Spec, model: Spec, path: str | Path) -> None:
    """UserError unless a classifier can guide a model."""
    if not isinstance(guide.network, ClassifierConfig):
        raise UserError(str(path), 'holds no classifier', 'give it as the first argument')
    _check_same([], guide, model, path, classes=model.network.num_classes is not None)


def _check_same(names: list[str], other: Spec, model: Spec, path: str | Path, *, classes: bool) -> None:
    """UserError unless both have the same images, noise levels, `names` of their networks, and `classes`."""
    names = ['image_size', 'image_channels', *names, *(['num_classes'] if classes else [])]
    theirs = {name: getattr(other.network, name) for name in names} | other.diffusion.levels
    ours = {name: getattr(model.network, name) for name in names} | model.diffusion.levels
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(str(path), f'{name} is {theirs[name]}', f'that of the diffusion model is {value}')
    if classes:
        check_same_classes(str(path), other.classes, 'the diffusion model', model.classes)


def _samples_stamp(path: Path) -> dict[str, Any]:
    """The stamp of the run's samples that were made with the network in a folder of training, if any."""
    stamp = {} if is_file(path) else read_stamp(path.parent / 'samples') or {}
    folder = stamp.get(path.name, {}).get('folder')
    return stamp if folder is not None and path.parent / folder == path else {}


def _sampled(path: Path) -> SampleConfig | None:
    """The settings of these samples."""
    settings = _samples_stamp(path).get('sample')
    if settings is None:
        return None
    known = {field.name for field in dataclasses.fields(SampleConfig)}
    return SampleConfig(**{name: value for name, value in settings.items() if name in known})


def average_of(path: Path, name: str) -> Any:
    """The rate of the average that `load` uses of a network."""
    config = _sampled(path)
    if config is None:
        return default_average(path)
    return config.classifier_ema_rate if name == CLASSIFIER else config.ema_rate


def _recipes(path: Path, model: Spec, guided: bool, *, given: bool) -> Recipes:
    """The recipes of a model, the default first; without a classifier they are not guided by one.

    given: the caller gave the classifier, which then guides a run's own recipe, too.
    """
    config = _sampled(path)
    if model.name in MODELS:
        recipes = MODELS[model.name].recipes
    elif config is not None:
        recipe = config.as_recipe()
        if given and not recipe.needs_classifier:
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
    """A respacing, or all steps if the process does not have it."""
    try:
        make_grid(process, respacing)
    except ValueError:
        return ''
    return respacing

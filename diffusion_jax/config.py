"""From a config, a nested mapping, to an Experiment.

Each section of a config becomes a dataclass. Settings that a network shares with its data (image size,
channels, classes) are filled in here.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.checks import in_section
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.data.sources import class_names, make_source
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment, check_experiment
from diffusion_jax.generation.config import DECIDED, SampleConfig, beside_recipe, is_complete
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.config import DERIVED
from diffusion_jax.settings import nearest, not_none, read_section, types_of
from diffusion_jax.weights.known import published_recipes


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetSection(UNetConfig):
    """The UNet in a config.

    Attributes:
        class_conditional: the diffusion model itself knows the classes; otherwise only a classifier does.
    """

    class_conditional: bool = False

    def network(self) -> UNetConfig:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(UNetConfig)}
        return UNetConfig(**values | ({} if self.class_conditional else {'num_classes': None}))


NETWORKS = ('unet', 'classifier')
SHARED = ('image_size', 'image_channels', 'num_classes')  # settings of networks that are those of the data
# The sections of a config, and the dataclasses of their settings.
SECTIONS: dict[str, type] = {
    name: not_none(hint)
    for name, hint in types_of(Experiment).items()
    if dataclasses.is_dataclass(not_none(hint))
} | {'unet': UNetSection}
MAY_BE_ABSENT = ('classifier', 'train_classifier')


@functools.cache
def all_settings() -> dict[str, Any]:
    """Every setting of a config by its dotted name, with its type: 'seed' → int, 'train.num_steps' → int."""
    found = {name: hint for name, hint in types_of(Experiment).items() if name not in SECTIONS}
    for section, cls in SECTIONS.items():
        derived = DERIVED if section in NETWORKS else ()
        found |= {f'{section}.{key}': hint for key, hint in types_of(cls).items() if key not in derived}
    return found


def no_such_setting(name: str) -> UserError:
    """The error for a dotted name that is no setting, with suggestions."""
    section, _, key = name.rpartition('.')
    meant = [f'config.{known}' for known in nearest(name, [*all_settings(), *SECTIONS])]
    remedy = f'did you mean {" or ".join(meant)}?' if meant else '`diffusion-jax show-config NAME` lists all'
    if section in NETWORKS and key in DERIVED:
        remedy = 'it follows from the sections data and diffusion'
    return UserError(f'config.{name}', 'no such setting', remedy)


def with_defaults(
    *, stages: tuple[str, ...], seed: int = 0, deterministic: bool = False, **sections: Mapping[str, Any]
) -> ConfigDict:
    """A config with every setting: what a section does not name has its default. Values are not checked.

    With `sample.recipe`, the settings that the recipe decides have no defaults, so that those that are given
    take precedence. Raises UserError for a section or a setting that does not exist.
    """
    config: dict[str, Any] = {'stages': stages, 'seed': seed, 'deterministic': deterministic}
    for name in SECTIONS | sections:
        section = sections.get(name, None if name in MAY_BE_ABSENT else {})
        if section is None and name in MAY_BE_ABSENT:
            continue
        if name not in SECTIONS:
            raise no_such_setting(name)
        if not isinstance(section, (Mapping, ConfigDict)):
            raise UserError(f'config.{name}', f'got {section!r}', f'must be a section: {name}=dict(…)')
        for key in section:
            if f'{name}.{key}' not in all_settings():
                raise no_such_setting(f'{name}.{key}')
        config[name] = {
            field.name: field.default
            for field in dataclasses.fields(SECTIONS[name])
            if f'{name}.{field.name}' in all_settings() and field.default is not dataclasses.MISSING
        } | dict(section)
        if name == 'sample' and section.get('recipe'):
            config[name] = beside_recipe(config[name], {*section})
    return ConfigDict(config)


def read_experiment(config: Mapping[str, Any], stored_classes: Sequence[str] = ()) -> Experiment:
    """The experiment of a config, which is a plain nested dict. Raises UserError if a setting cannot work.

    stored_classes: the names of the classes of a stored network. Without them the images are listed if the
        config does not give the number of classes, or names some.
    """
    data, sample = _with_classes(
        read_section(DataConfig, config.get('data'), 'config.data'),
        read_section(SampleConfig, config.get('sample', {}), 'config.sample'),
        stored_classes,
    )
    diffusion = read_section(DiffusionConfig, config.get('diffusion'), 'config.diffusion')
    shared = {name: getattr(data, name) for name in SHARED}
    derived = shared | {
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
        'low_res': data.low_res_size is not None,
    }
    unet = read_section(UNetSection, config.get('unet', {}), 'config.unet', derived).network()
    sections = {'data': data, 'diffusion': diffusion, 'unet': unet}
    if 'classifier' in config:
        sections['classifier'] = read_section(
            ClassifierConfig, config['classifier'], 'config.classifier', shared
        )
    if sample.recipe:
        published = published_recipes(unet, diffusion, guided='classifier' in config)
        recipes = {each.name: each.recipe for each in published}
        if sample.recipe not in recipes:
            own = 'only published models have recipes; set sampler, respacing, scale or guidance instead'
            remedy = f'must be one of {", ".join(recipes)}' if recipes else own
            raise UserError('config.sample.recipe', f'got {sample.recipe!r}', remedy)
        section = config['sample']
        given = () if is_complete(section) else [name for name in DECIDED if name in section]
        sample = sample.with_recipe(recipes[sample.recipe], given)
    experiment = read_section(Experiment, {**config, **sections, 'sample': sample}, 'config')
    check_experiment(experiment)
    return experiment


def read_without_images(config: Mapping[str, Any]) -> Experiment:
    """See `read_experiment`. Does not list images; assumes two classes if these would give the number."""
    classes = config.get('sample', {}).get('classes', ())
    named = [name for name in classes if isinstance(name, str)]
    return read_experiment(config, stored_classes=(*named, '', ''))


def _with_classes(
    data: DataConfig, sample: SampleConfig, stored_classes: Sequence[str]
) -> tuple[DataConfig, SampleConfig]:
    """The number of classes if it is not given, and labels instead of the names of classes."""
    named = any(isinstance(label, str) for label in sample.classes)
    if data.num_classes is not None and not named and not (sample.classes and stored_classes):
        return data, sample
    in_section('data', check_data, data)
    names = stored_classes
    if not names and data.labels != 'none':
        names = class_names(make_source(data, 'train'))
    known = imagenet.synonyms(names)
    try:  # a number that is the name of a class, such as a folder called 1, is this name
        classes = tuple(
            label_of(str(label), known) if isinstance(label, str) or str(label) in names else label
            for label in sample.classes
        )
    except UserError as error:
        problem = f'{error.where} {error.problem}'
        raise UserError('config.sample.classes', problem, error.remedy) from error
    num_classes = max(len(names), 1) if data.num_classes is None else data.num_classes
    return dataclasses.replace(data, num_classes=num_classes), dataclasses.replace(sample, classes=classes)

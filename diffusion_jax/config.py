"""From a config, a nested mapping, to an Experiment.

Each section of a config becomes a dataclass. What a network shares with its data (image size, channels,
classes) is filled in here, so that no config says it twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.checks import in_section
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.data.sources import class_names, make_source
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment, check_experiment, with_slowest_average
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.config import DERIVED
from diffusion_jax.settings import nearest, not_none, read_section, types_of
from diffusion_jax.weights.released import published_recipes


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetSection(UNetConfig):
    """What a config says of the UNet.

    Attributes:
        class_conditional: the diffusion model itself knows the classes; otherwise only a classifier does.
    """

    class_conditional: bool = False

    def network(self) -> UNetConfig:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(UNetConfig)}
        return UNetConfig(**values | ({} if self.class_conditional else {'num_classes': None}))


NETWORKS = ('unet', 'classifier')
# What these share with the data.
SHARED = ('image_size', 'image_channels', 'num_classes')
# The sections of a config, and the dataclass that says what can be set in each.
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
    """The error for a dotted name that is no setting, with those that were probably meant."""
    section, _, key = name.rpartition('.')
    if section in NETWORKS and key in DERIVED:
        return UserError(f'config.{name}: no such setting; it follows from the sections data and diffusion')
    meant = [f'config.{each}' for each in nearest(name, [*all_settings(), *SECTIONS])]
    hint = f'did you mean {" or ".join(meant)}?' if meant else '`diffusion-jax show-config NAME` lists all'
    return UserError(f'config.{name}: no such setting; {hint}')


def with_defaults(
    *, stages: tuple[str, ...], seed: int = 0, deterministic: bool = False, **sections: Mapping[str, Any]
) -> ConfigDict:
    """A config file's experiment with every setting in it.

    What a section does not name has its dataclass's default; a section that may be absent stays so.
    No value is checked before `read_experiment`.

    Raises:
        UserError: there is no such section or setting.
    """
    for name, section in sections.items():
        if name not in SECTIONS:
            raise no_such_setting(name)
        if section is None and name in MAY_BE_ABSENT:
            continue
        if not isinstance(section, (Mapping, ConfigDict)):
            raise UserError(f'config.{name} is {section!r}; it must be a section: {name}=dict(…)')
        for key in section:
            if f'{name}.{key}' not in all_settings():
                raise no_such_setting(f'{name}.{key}')
    filled = {
        name: _defaults(name) | dict(sections.get(name, {}))
        for name in SECTIONS
        if sections.get(name) is not None or name not in MAY_BE_ABSENT
    }
    return ConfigDict({'stages': stages, 'seed': seed, 'deterministic': deterministic, **filled})


def _defaults(section: str) -> dict[str, Any]:
    """The defaults of the settings that have one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(SECTIONS[section])
        if f'{section}.{field.name}' in all_settings() and field.default is not dataclasses.MISSING
    }


def read_experiment(config: Mapping[str, Any], stored_classes: Sequence[str] = ()) -> Experiment:
    """The config, as a plain nested dict, checked and complete.

    Where config.sample.ema_rate is not set it becomes the slowest of config.train.ema_rates; it stays None
    only where the network is a pretrained folder of training, whose averages may be others.

    Args:
        stored_classes: the names of the classes of a stored network. Without them the images are listed where
            the config does not give the number of classes, or names some.

    Raises:
        UserError: something cannot work; the message names the key, its value and what is allowed.
    """
    data, sample = _with_classes(
        read_section(DataConfig, config.get('data'), 'config.data'),
        read_section(SampleConfig, config.get('sample', {}), 'config.sample'),
        stored_classes,
    )
    diffusion = read_section(DiffusionConfig, config.get('diffusion'), 'config.diffusion')
    shared = {name: getattr(data, name) for name in SHARED}
    unet_derived = shared | {
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
        'low_res': data.low_res_size is not None,
    }
    unet = read_section(UNetSection, config.get('unet', {}), 'config.unet', unet_derived)
    networks = {'unet': unet.network()}
    if 'classifier' in config:
        networks['classifier'] = read_section(
            ClassifierConfig, config['classifier'], 'config.classifier', shared
        )
    sample = _with_published_recipe(
        sample, networks['unet'], diffusion, guided=networks.get('classifier') is not None
    )
    experiment = read_section(
        Experiment, {**config, 'data': data, 'diffusion': diffusion, 'sample': sample, **networks}, 'config'
    )
    check_experiment(experiment)
    pretrained = experiment.pretrained.diffusion
    if experiment.sample.ema_rate is not None or (pretrained and Path(pretrained).is_dir()):
        return experiment
    return with_slowest_average(experiment, experiment.train.ema_rates)


def _with_published_recipe(
    sample: SampleConfig, unet: UNetConfig, diffusion: DiffusionConfig, *, guided: bool
) -> SampleConfig:
    if not sample.recipe:
        return sample
    recipes = dict(published_recipes(unet, diffusion, guided=guided))
    if sample.recipe not in recipes:
        has = f'has {", ".join(recipes)}' if recipes else 'is none of the released ones, which have recipes'
        raise UserError(f'config.sample.recipe is {sample.recipe!r}; the model {has}')
    return sample.with_recipe(recipes[sample.recipe])


def read_without_images(config: Mapping[str, Any]) -> Experiment:
    """See `read_experiment`. Does not list images; assumes two classes where these would say the number."""
    classes = config.get('sample', {}).get('classes', ())
    named = [name for name in classes if isinstance(name, str)]
    return read_experiment(config, stored_classes=(*named, '', ''))


def _with_classes(
    data: DataConfig, sample: SampleConfig, stored_classes: Sequence[str]
) -> tuple[DataConfig, SampleConfig]:
    """The number of classes where it is not given, and labels in place of the names of classes."""
    named = [name for name in sample.classes if isinstance(name, str)]
    if data.num_classes is not None and not named and not (sample.classes and stored_classes):
        return data, sample
    in_section('data', check_data, data)
    names = stored_classes or _classes_of_images(data)
    known = imagenet.synonyms(names)
    try:  # a number that is the name of a class, such as a folder called 1, is this name
        classes = tuple(
            label_of(str(each), known) if isinstance(each, str) or str(each) in names else each
            for each in sample.classes
        )
    except UserError as error:
        raise UserError(f'config.sample.classes: {error}') from error
    num_classes = max(len(names), 1) if data.num_classes is None else data.num_classes
    return dataclasses.replace(data, num_classes=num_classes), dataclasses.replace(sample, classes=classes)


def _classes_of_images(data: DataConfig) -> tuple[str, ...]:
    if data.labels == 'none':
        return ()
    return class_names(make_source(data, 'train'))

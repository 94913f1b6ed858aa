"""From configs to experiments, and the settings that are refused."""

import copy
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.command_line import parse_flags
from diffusion_jax.config import read_experiment, with_defaults
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, Heun
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import check_stages
from diffusion_jax.generation.options import read_guidance
from diffusion_jax.weights.known import published_recipes

CONFIGS = Path(__file__).parent.parent / 'configs'


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict()


DIGITS = load('digits')
CLASSIFIER = {'classifier', 'train_classifier'}


def changed(**changes):
    """The digits' config with values at dotted keys (written with __), None to remove one."""
    config = copy.deepcopy(DIGITS)
    for key, value in changes.items():
        *sections, last = key.split('__')
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
        if value is None:
            del section[last]
    return config


def refused(config):
    with pytest.raises(UserError) as error:
        read_experiment(config)
    assert '\n' not in str(error.value)
    return error.value


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_is_sound(path):
    read_experiment(load(path.stem), stored_classes=('ant', 'bee'))


def test_what_follows_from_the_data_is_filled_in():
    experiment = read_experiment(changed(unet__class_conditional=True))
    assert experiment.unet.image_size == experiment.classifier.image_size == (8, 8)
    assert experiment.unet.num_classes == experiment.classifier.num_classes == 10
    assert experiment.unet.out_channels == 2 and not experiment.unet.low_res
    fixed = read_experiment(changed(diffusion__variance='fixed_large'))
    assert fixed.unet.out_channels == 1 and fixed.unet.num_classes is None
    upsampler = read_experiment(changed(data__low_res_size=(4, 4)))
    assert upsampler.unet.low_res and upsampler.data.low_res_size == (4, 4)


def test_a_config_may_do_without_a_classifier():
    sections = {name: section for name, section in DIGITS.items() if name not in CLASSIFIER}
    sections['sample'] = sections['sample'] | {'scale': 0.0}
    config = with_defaults(**sections | {'stages': ('train', 'sample')}).to_dict()
    assert not CLASSIFIER & set(config)
    experiment = read_experiment(config)
    assert experiment.classifier is None and experiment.train_classifier is None
    check_stages(experiment, ('train', 'evaluate'), '--stage')
    with pytest.raises(UserError) as error:
        check_stages(experiment, ('train_classifier',), '--stage')
    assert error.value.where == '--stage' and 'section classifier' in error.value.problem


def test_the_number_and_the_names_of_classes_come_from_the_images(tmp_path):
    """A number that is the name of a class is this name."""
    for name in ('1', '2', 'bee'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / 'train' / name / '0.png')
    data = {'name': 'folder', 'path': str(tmp_path)}
    changes = {'data': data, 'unet__class_conditional': True}
    experiment = read_experiment(changed(**changes, sample__classes=(1, 'Bee')))
    assert experiment.sample.classes == (0, 2)
    assert experiment.unet.num_classes == experiment.classifier.num_classes == 3
    assert refused(changed(**changes, sample__classes=('wasp',))).where == 'config.sample.classes'
    stored = read_experiment(changed(**changes, sample__classes=('wasp',)), stored_classes=('ant', 'wasp'))
    assert stored.sample.classes == (1,) and stored.unet.num_classes == 2
    assert read_experiment(changed(sample__classes=(1,))).sample.classes == (1,)


@pytest.mark.parametrize(
    ('names', 'classes'),
    [
        (('bald eagle', 'cat', 'golden retriever'), ('golden retriever', 'bald eagle')),
        ((7, 11, 42), (42, 7)),
        ((7, 11, 42), ('42', '7')),
    ],
)
def test_classes_of_any_source_are_sampled_by_name(tmp_path, names, classes):
    for name in names:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f'{name}.png')
    (tmp_path / 'x.csv').write_text('path,label\n' + ''.join(f'{name}.png,{name}\n' for name in names))
    paths = [tmp_path / 'x.csv']
    if 42 in names:
        np.savez(tmp_path / 'x.npz', np.zeros((3, 8, 8, 1), np.uint8), np.array(names))
        paths.append(tmp_path / 'x.npz')
    for path in paths:
        data = {'name': 'auto', 'path': str(path)}
        experiment = read_experiment(
            changed(data=data, unet__class_conditional=True, sample__classes=classes)
        )
        assert experiment.sample.classes == (2, 0) and experiment.unet.num_classes == 3


def test_integers_are_accepted_as_floats_and_lists_as_tuples():
    experiment = read_experiment(changed(sample__scale=3, unet__channel_mult=[1, 2]))
    assert experiment.sample.scale == 3.0 and isinstance(experiment.sample.scale, float)
    assert experiment.unet.channel_mult == (1.0, 2.0)


NO_CLASSIFIER = {'classifier': None, 'stages': ()}


@pytest.mark.parametrize(
    ('changes', 'where', 'says'),
    [
        ({'nope': 1}, 'nope', 'no such setting'),
        ({'unet__image_size': (8, 8)}, 'unet.image_size', 'follows from other sections'),
        ({'unet__low_res': True}, 'unet.low_res', 'follows from other sections'),
        ({'train': None}, 'train', 'missing'),
        ({'train__num_steps': 1.5}, 'train.num_steps', '1.5'),
        ({'train__num_steps': 0}, 'train.num_steps', '0'),
        ({'train__num_steps': 2**31}, 'train.num_steps', '2147483648'),
        ({'train__warmup_steps': 5000}, 'train.warmup_steps', '1000; for a short trial set it to 0'),
        ({'train__microbatches': 3}, 'train.', '64'),
        ({'train__ema_rates': (1.5,)}, 'train.ema_rates', '1.5'),
        ({'train__evaluate_samples': 3}, 'train.evaluate_samples', '3'),
        ({'train__max_skipped': 0}, 'train.max_skipped', '0'),
        ({'train__profile': (5,)}, 'train.profile', '(5,)'),
        ({'train__profile': (8, 5)}, 'train.profile', '(8, 5)'),
        ({'train__profile': (8, 1001)}, 'train.profile', '1000'),
        ({'data__image_channels': 3}, 'data.image_channels', '3'),
        ({'data__low_res_size': (4, 8)}, 'data.low_res_size', '8'),
        ({'unet__channel_mult': (1, 2, 2, 2, 2)}, 'unet.channel_mult', '16'),
        ({'unet__model_channels': 48}, 'unet.', '48'),
        ({'classifier__pool': 'max'}, 'classifier.pool', 'max'),
        ({'diffusion__schedule': 'square'}, 'diffusion.schedule', 'square'),
        ({'diffusion__num_timesteps': 0}, 'diffusion.num_timesteps', '0'),
        (
            {'diffusion__schedule': 'linear', 'diffusion__num_timesteps': 20, 'sample__respacing': ''},
            'diffusion.schedule',
            '20 timesteps',
        ),
        ({'sample__respacing': 'ddim333'}, 'sample.respacing', 'ddim333'),
        ({'sample__sampler': 'hein'}, 'sample.sampler', 'hein'),
        ({'sample__labels': 'uniform'}, 'sample.labels', 'uniform'),
        ({'sample__labels': 'x.npy', 'sample__classes': (3,)}, 'sample.classes', '3'),
        ({'sample__classes': (3, 10)}, 'sample.classes', '10'),
        ({'sample__classes': ('ten',)}, 'sample.classes', 'ten'),
        ({'sample__name': '../x'}, 'sample.name', '../x'),
        ({'sample__eta': 1.1}, 'sample.eta', '1.1'),
        ({'sample__num_samples': 2**31}, 'sample.num_samples', '2147483648'),
        ({'sample__seed': 2**32}, 'sample.seed', '4294967296'),
        ({'sample__scale': 10**400}, 'sample.scale', '1000'),
        ({'sample__guidance': 'classifier_free'}, 'sample', 'class-conditional'),
        ({'sample__guidance': 'icg'}, 'sample', 'class-conditional'),
        ({'sample__guidance': 'auto'}, 'sample.weak', 'not set'),
        ({'sample__weak': 'runs/digits'}, 'sample.weak', 'auto'),
        ({'sample__guidance': 'pag:blocks=encoder.99'}, 'sample', 'encoder.99'),
        ({'sample__guidance': 'mixture:77=1'}, 'sample', '77'),
        ({'sample__guidance': 'mixture:three=1'}, 'sample', 'three'),
        ({'sample__ema_rate': 0.5}, 'sample.ema_rate', '0.5'),
        ({'sample__ema_rate': 1.0, 'pretrained__diffusion': 'x'}, 'sample.ema_rate', '1.0'),
        ({'seed': 2**32}, 'seed', '4294967296'),
        ({'stages': ('train', 'dance')}, 'stages', 'dance'),
        (NO_CLASSIFIER, 'sample.scale', '0'),
        (NO_CLASSIFIER | {'sample__guidance': 'classifier:scale=2'}, 'sample.guidance', "''"),
        ({'classifier': None, 'sample__scale': 0}, 'stages', 'section classifier'),
        ({'train_classifier': None}, 'stages', 'section train_classifier'),
        (
            NO_CLASSIFIER | {'sample__scale': 0, 'pretrained__classifier': 'runs/x'},
            'pretrained.classifier',
            'section classifier',
        ),
        (
            {'train_classifier': None, 'stages': ('train',), 'sample__classifier_ema_rate': 0.9},
            'sample.classifier_ema_rate',
            '0.9',
        ),
        ({'evaluate__judge': 'digits_svm'}, 'evaluate.judge', 'no such setting'),
        ({'evaluate__bootstrap': 1}, 'evaluate.bootstrap', '1'),
    ],
)
def test_bad_settings_are_named(changes, where, says):
    error = refused(changed(**changes))
    assert error.where.startswith(f'config.{where}') and says in str(error)


@pytest.mark.parametrize(
    ('name', 'recipe', 'sampling'),
    [
        ('imagenet256', 'paper-ddim', ('ddim', 'ddim25', 2.5)),
        ('imagenet256', 'paper', ('ddpm', '250', 1.0)),
        ('imagenet256_uncond', 'paper-ddim', ('ddim', 'ddim25', 10.0)),
        ('imagenet64', 'paper-ddim', ('ddim', 'ddim25', 1.0)),
        ('lsun_horse', 'paper', ('ddpm', '', 0.0)),
        ('upsample_64_256', 'paper-ddim', ('ddim', 'ddim25', 0.0)),
    ],
)
def test_a_recipe_of_the_paper_by_name(name, recipe, sampling):
    sample = read_experiment(load(name) | {'sample': load(name)['sample'] | {'recipe': recipe}}).sample
    assert (sample.sampler, sample.respacing, sample.scale) == sampling


def sampled_as(*flags):
    """The settings of sampling that a command line gives, and their recipe."""
    sample = read_experiment(parse_flags(['test', *flags]).config).sample
    return sample, sample.as_recipe()


@pytest.mark.parametrize('name', ['imagenet64', 'imagenet256', 'lsun_cat', 'upsample_64_256'])
def test_settings_of_every_recipe_are_that_recipe(name):
    experiment = read_experiment(load(name))
    guided = experiment.classifier is not None
    for each in published_recipes(experiment.unet, experiment.diffusion, guided=guided):
        assert sampled_as(f'--config={name}', f'--config.sample.recipe={each.name}')[1] == each.recipe


def test_settings_beside_a_recipe_take_precedence():
    flags = ['--config=imagenet256', '--config.sample.recipe=paper-ddim']
    recipe = Recipe(DDIM(), (ClassifierGuidance(2.5),), 'ddim25')
    assert sampled_as(*flags)[1] == recipe
    assert sampled_as(*flags, '--config.sample.scale=6')[1] == recipe.with_scale(6.0)
    assert sampled_as('--config.sample.scale=6', *flags)[1] == recipe.with_scale(6.0)
    assert sampled_as(*flags, '--config.sample.scale=0')[1] == recipe.unguided()
    changed = dataclasses.replace(recipe, respacing='ddim50', clip=False, timesteps='nearest')
    more = ['respacing=ddim50', 'clip=False', 'timesteps=nearest']
    assert sampled_as(*flags, *(f'--config.sample.{each}' for each in more))[1] == changed
    assert sampled_as(*flags, '--config.sample.eta=0.5')[1].sampler == DDIM(0.5)
    assert sampled_as(*flags, '--config.sample.sampler=heun')[1].sampler == Heun()
    interval = 'classifier/interval:low=1'
    found = sampled_as(*flags, f'--config.sample.guidance={interval}')[1].guidance
    assert found == read_guidance(interval, 2.5)
    edm = ['--config=imagenet64', '--config.sample.recipe=edm', '--config.sample.respacing=karras:18']
    assert sampled_as(*edm)[1] == Recipe(Heun(40.0, 0.05, 50.0, 1.003), (), 'karras:18', timesteps='nearest')


def test_settings_beside_a_recipe_in_a_config_file_take_precedence(tmp_path):
    text = (CONFIGS / 'imagenet256.py').read_text()
    for where, scale in (("recipe='paper-ddim'", 2.5), ("recipe='paper-ddim', scale=6.0", 6.0)):
        file = tmp_path / 'mine.py'
        file.write_text(
            text.replace("sampling('256x256_diffusion'", f"sampling('256x256_diffusion', {where}")
        )
        sample, recipe = sampled_as(f'--config={file}')
        assert (sample.scale, recipe.sampler, recipe.respacing) == (scale, DDIM(), 'ddim25')
        assert sampled_as(f'--config={file}', '--config.sample.respacing=50')[0].scale == scale
        assert sampled_as(f'--config={file}', '--config.sample.scale=3')[0].scale == 3
        assert sampled_as(f'--config={file}', '--config.sample.recipe=paper')[0].scale == 1
        assert sampled_as(f'--config={file}', '--config.sample.recipe=')[0].sampler == 'ddpm'


def test_a_recipe_that_the_model_does_not_have():
    config = load('imagenet256')
    config['sample']['recipe'] = 'paper-dim'
    error = refused(config)
    assert error.where == 'config.sample.recipe' and 'paper, paper-ddim' in error.remedy
    error = refused(changed(sample__recipe='ddim'))
    assert error.where == 'config.sample.recipe' and 'only published models' in error.remedy


def floats(config, prefix=''):
    """The keys of all settings that are floats, or tuples of floats, written with __."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from floats(value, f'{prefix}{key}__')
        elif isinstance(value, float) or (isinstance(value, tuple) and value and type(value[0]) is float):
            yield prefix + key


FLOATS = list(floats(changed(unet__channel_mult=(1.0,), classifier__channel_mult=(1.0,))))


def test_floats_of_every_section_are_found():
    assert {'sample__scale', 'train__learning_rate', 'train__ema_rates'} <= set(FLOATS)
    assert {'unet__channel_mult', 'classifier__dropout'} <= set(FLOATS)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e39, -1.0])
@pytest.mark.parametrize('key', FLOATS)
def test_a_float_that_float32_does_not_hold_is_refused_by_name(key, value):
    setting = (value,) if key.endswith(('mult', 'rates')) else value
    text = str(refused(changed(**{key: setting})))
    assert f'config.{key.replace("__", ".")}' in text and str(value) in text

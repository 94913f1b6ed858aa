import copy
import importlib.util
import re
from pathlib import Path

import pytest

from diffusion_jax.config import read_experiment, with_defaults
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import check_stages

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


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_is_sound(path):
    read_experiment(load(path.stem), stored_classes=('ant', 'bee'))


def test_what_follows_from_the_data_is_filled_in():
    experiment = read_experiment(changed(unet__class_conditional=True))
    assert experiment.unet.image_size == experiment.classifier.image_size == (8, 8)
    assert experiment.unet.num_classes == experiment.classifier.num_classes == 10
    assert experiment.unet.out_channels == 2
    fixed = read_experiment(changed(diffusion__variance='fixed_large'))
    assert fixed.unet.out_channels == 1 and fixed.unet.num_classes is None


def test_a_low_resolution_makes_the_model_an_upsampler():
    assert not read_experiment(DIGITS).unet.low_res
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
    with pytest.raises(UserError, match='--stage has train_classifier; the config has no section classifier'):
        check_stages(experiment, ('train_classifier',), '--stage')


def test_whole_numbers_serve_as_floats_and_lists_as_tuples():
    experiment = read_experiment(changed(sample__scale=3, unet__channel_mult=[1, 2]))
    assert experiment.sample.scale == 3.0 and isinstance(experiment.sample.scale, float)
    assert experiment.unet.channel_mult == (1.0, 2.0)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'nope': 1}, r'config\.nope: no such setting; known are stages, '),
        ({'unet__nope': 1}, r'config\.unet\.nope: no such setting'),
        ({'unet__image_size': (8, 8)}, r'config\.unet\.image_size: .* follows from other sections'),
        (
            {'unet__channel_mult': 3},
            r'config\.unet\.channel_mult is 3; it must be numbers separated',
        ),
        ({'train__num_steps': 1.5}, r'config\.train\.num_steps is 1\.5; it must be a whole number'),
        ({'train__num_steps': True}, r'config\.train\.num_steps is True; it must be a whole number'),
        ({'train__num_steps': 0}, r'config\.train\.num_steps is 0; it must be at least 1'),
        ({'train__warmup_steps': 5000}, r'config\.train\.warmup_steps is 5000; .* below num_steps, 1000'),
        ({'train__microbatches': 3}, r'config\.train\.batch_size is 64; microbatches, 3'),
        ({'train__ema_rates': (1.5,)}, r'config\.train\.ema_rates is 1\.5'),
        ({'train__evaluate_samples': 3}, r'config\.train\.evaluate_samples is 3; it must be at least 4'),
        ({'train__max_skipped': 0}, r'config\.train\.max_skipped is 0'),
        (
            {'train__profile': (5,)},
            r'config\.train\.profile is \(5,\); it must be the first and the last step',
        ),
        ({'train__profile': (8, 5)}, r'config\.train\.profile is \(8, 5\)'),
        ({'train__profile': (8, 1001)}, r'config\.train\.profile is \(8, 1001\); .* num_steps, 1000'),
        ({'train': 3}, r'config\.train is 3; it must be a section'),
        ({'data__image_channels': 3}, r'config\.data\.image_channels is 3'),
        (
            {'unet__channel_mult': (1, 2, 2, 2, 2)},
            r'config\.unet\.channel_mult has 5 levels; .*config\.data\.image_size, \(8, 8\), .* by 16',
        ),
        ({'unet__model_channels': 48}, r'config\.unet\.channel_mult .* gives 48 channels .* multiple of 32'),
        ({'classifier__pool': 'max'}, r"config\.classifier\.pool is 'max'; it must be one of"),
        ({'diffusion__schedule': 'square'}, r"config\.diffusion\.schedule is 'square'; .* 'linear'"),
        ({'diffusion__num_timesteps': 0}, r'config\.diffusion\.num_timesteps is 0'),
        (
            {'sample__respacing': 'ddim333'},
            r"config\.sample\.respacing is 'ddim333': .* 333 of 1000 .*; give 333",
        ),
        ({'sample__sampler': 'hein'}, r"config\.sample\.sampler is 'hein'; it must be one of 'ddpm', 'ddim'"),
        ({'sample__classes': (3, 10)}, r'config\.sample\.classes is 10; .* below 10'),
        ({'sample__name': '../x'}, r'config\.sample\.name .* plain folder name'),
        ({'stages': ('train', 'dance')}, r"config\.stages is 'dance'; it must be one of 'train'"),
        ({'evaluate__judge': 'digits_svm'}, r'config\.evaluate\.judge'),
        ({'data__low_res_size': (4, 8)}, r'config\.data\.low_res_size is 8; .* below 8'),
        (
            {'data__low_res_size': 4},
            r'config\.data\.low_res_size is 4; give height and width: 4,4',
        ),
        ({'unet__low_res': True}, r'config\.unet\.low_res: .* follows from other sections'),
        ({'classifier': None, 'stages': ()}, r'config\.sample\.scale is 5; .* no section classifier'),
        (
            {'classifier': None, 'stages': (), 'sample__guidance': 'classifier:scale=2'},
            r"guidance is 'classifier:scale=2'; .* no section classifier .* set config\.sample\.guidance=''",
        ),
        (
            {'classifier': None, 'sample__scale': 0},
            r'config\.stages has train_classifier; .* no section classifier, add',
        ),
        (
            {'train_classifier': None},
            r'config\.stages has train_classifier; .* section train_classifier, add',
        ),
        (
            {'classifier': None, 'stages': (), 'sample__scale': 0, 'pretrained__classifier': 'runs/x'},
            r"config\.pretrained\.classifier is 'runs/x'; .* no section classifier",
        ),
        (
            {'train_classifier': None, 'stages': ('train',), 'sample__classifier_ema_rate': 0.9},
            r'config\.sample\.classifier_ema_rate is 0\.9; config\.train_classifier\.ema_rates has none',
        ),
        (
            {'data': {'name': 'folder', 'path': 'x', 'labels': 'none', 'num_classes': 1}},
            r'scale is 5; .*num_classes is 1; give --stage=train,sample,evaluate --config\.sample\.scale=0$',
        ),
        ({'sample__ema_rate': 0.5}, r'config\.sample\.ema_rate is 0\.5; config\.train\.ema_rates has 0\.995'),
        ({'sample__ema_rate': 2.0}, r'config\.sample\.ema_rate is 2\.0; it must be .* below 1'),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message) as error:
        read_experiment(changed(**changes))
    assert '\n' not in str(error.value)


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


def test_a_recipe_that_the_model_does_not_have():
    config = load('imagenet256')
    config['sample']['recipe'] = 'paper-dim'
    with pytest.raises(UserError, match=r"sample\.recipe is 'paper-dim'; the model has paper, paper-ddim"):
        read_experiment(config)
    with pytest.raises(UserError, match=r"recipe is 'paper'; the model is none of the released ones"):
        read_experiment(changed(sample__recipe='paper'))


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
    with pytest.raises(UserError, match=rf'config\.{key.replace("__", ".")} is .*{re.escape(str(value))}'):
        read_experiment(changed(**{key: setting}))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sample__scale': 10**400}, r'config\.sample\.scale is 10{79} …; it must be a number'),
        ({'sample__eta': 1.1}, r'config\.sample\.eta is 1\.1; .* at most 1'),
        ({'sample__ema_rate': 1.0}, r'config\.sample\.ema_rate is 1\.0; .* below 1'),
        ({'sample__num_samples': 2**31}, r'config\.sample\.num_samples is 2147483648; .* below'),
        ({'train__num_steps': 2**31}, r'config\.train\.num_steps is 2147483648; .* below'),
        (
            {'diffusion__schedule': 'linear', 'diffusion__num_timesteps': 20, 'sample__respacing': ''},
            r"config\.diffusion\.schedule is 'linear': .* at least 21 timesteps, not 20",
        ),
    ],
)
def test_numbers_out_of_range_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        read_experiment(changed(**changes))


def test_a_missing_section_is_named():
    config = changed()
    del config['train']
    with pytest.raises(UserError, match=r'config\.train is missing'):
        read_experiment(config)


@pytest.mark.parametrize(
    ('rates', 'given', 'used'),
    [((0.9, 0.999, 0.99), None, 0.999), ((), None, 0.0), ((0.9, 0.99), 0.9, 0.9), ((0.9,), 0.0, 0.0)],
)
def test_samples_are_drawn_with_the_slowest_average_unless_the_config_says_another(rates, given, used):
    experiment = read_experiment(changed(train__ema_rates=rates, sample__ema_rate=given))
    assert experiment.sample.ema_rate == used

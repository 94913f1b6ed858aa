"""The paper's configs: each at full size by its shapes, and shrunk from training to samples."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main, models
from diffusion_jax.config import read_experiment
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.weights.released import RELEASED
from tests.test_config import CONFIGS, load
from tests.tiers import fast_for

PAPER = sorted(
    path.stem
    for path in CONFIGS.glob('*.py')
    if path.stem not in ('digits', 'folder', 'photos', 'photos_upsampler')
)
PARAMETERS = {  # paper, tables 11 to 13, in millions
    'imagenet64': (296, 65),
    'imagenet128': (422, 43),
    'imagenet256': (554, 54),
    'imagenet256_uncond': (553, 54),
    'imagenet512': (559, 54),
    'upsample_64_256': (312, None),
    'upsample_128_512': (309, None),
    'lsun_bedroom': (553, None),
    'lsun_cat': (553, None),
    'lsun_horse': (553, None),
}
# Paper, tables 11 to 14: schedule, dropout, steps, batch, learning rate; of the classifier steps, batch,
# learning rate and weight decay; DDPM's respacing and scale.
RECIPES = {
    'imagenet64': ('cosine', 0.1, 540_000, 2048, 3e-4, (300_000, 1024, 6e-4, 0.2), '250', 1.0),
    'imagenet128': ('linear', 0.0, 4_360_000, 256, 1e-4, (300_000, 256, 3e-4, 0.05), '250', 0.5),
    'imagenet256': ('linear', 0.0, 1_980_000, 256, 1e-4, (500_000, 256, 3e-4, 0.05), '250', 1.0),
    'imagenet256_uncond': ('linear', 0.0, 2_000_000, 256, 1e-4, (500_000, 256, 3e-4, 0.05), '250', 10.0),
    'imagenet512': ('linear', 0.0, 1_940_000, 256, 1e-4, (500_000, 256, 3e-4, 0.05), '250', 4.0),
    'upsample_64_256': ('linear', 0.0, 500_000, 256, 1e-4, None, '250', 0.0),
    'upsample_128_512': ('linear', 0.0, 1_050_000, 256, 1e-4, None, '250', 0.0),
    'lsun_bedroom': ('linear', 0.1, 500_000, 256, 1e-4, None, '', 0.0),
    'lsun_cat': ('linear', 0.1, 200_000, 256, 1e-4, None, '', 0.0),
    'lsun_horse': ('linear', 0.1, 250_000, 256, 1e-4, None, '', 0.0),
}
SIZE, LOW = (8, 16), (4, 8)  # height and width


def test_every_config_of_the_paper_is_there():
    assert PAPER == sorted(PARAMETERS)


@pytest.mark.parametrize('name', PAPER)
def test_figures_are_the_papers(name):
    experiment = read_experiment(load(name))
    train, guide, sample = experiment.train, experiment.train_classifier, experiment.sample
    assert RECIPES[name] == (
        experiment.diffusion.schedule,
        experiment.unet.dropout,
        train.num_steps,
        train.batch_size,
        train.learning_rate,
        guide and (guide.num_steps, guide.batch_size, guide.learning_rate, guide.weight_decay),
        sample.respacing,
        sample.scale,
    )
    assert train.ema_rates == (0.9999,) and train.weight_decay == 0 and train.flip and not train.random_crop
    assert train.learning_rate_schedule == 'constant' and sample.num_samples == 50_000
    assert guide is None or (guide.flip and guide.random_crop and guide.learning_rate_schedule == 'linear')


@pytest.mark.parametrize('name', PAPER)
def test_the_commands_of_a_docstring_are_understood(name):
    """Every flag but those that name files; the files are not here."""
    text = (CONFIGS / f'{name}.py').read_text().split('"""')[1]
    flags = [flag.rstrip('.,;') for flag in re.findall(r'--config\.\S+=\S+', text)]
    assert len(flags) >= 2
    for flag in flags:
        options = main.parse_flags(['main', f'--config={CONFIGS / name}.py', flag])
        read_experiment(options.config)


# One network of each kind; tests/weights/test_released.py has the shapes of an upsampler.
@pytest.mark.parametrize('name', fast_for(PAPER, ('imagenet256',)))
def test_full_size(name):
    experiment = read_experiment(load(name))
    assert PARAMETERS[name] == (
        millions(dataclasses.replace(experiment.unet, dropout=0.0), experiment.data.low_res_size),
        experiment.classifier and millions(experiment.classifier),
    )


def test_the_sizes_that_released_upsamplers_enlarge():
    sizes = {model.config: model.low_res_size for model in RELEASED.values() if model.low_res_size}
    assert sizes == {'upsample_64_256': (64, 64), 'upsample_128_512': (128, 128)}
    assert all(load(name)['data']['low_res_size'] == size for name, size in sizes.items())


@functools.cache  # several configs share a network, but for its dropout
def millions(network, low_res_size=None):
    """The size of a network, after a look at its output; allocates nothing."""
    params = models.param_shapes(network)
    x = jax.ShapeDtypeStruct((2, *network.image_size, 3), jnp.float32)
    t, y = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    low_res = low_res_size and jax.ShapeDtypeStruct((2, *low_res_size, 3), jnp.float32)
    apply = functools.partial(models.apply, network)
    output = jax.eval_shape(
        lambda params, x, t, y, low: apply(params, x, t, y, low_res=low), params, x, t, y, low_res
    )
    expected = (2, 1000) if isinstance(network, models.ClassifierConfig) else (*x.shape[:3], 6)
    assert output.shape == expected and output.dtype == jnp.float32
    return round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Three classes of images of different sizes, with a split to validate on."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 6), ('val', 2)):
        for label in 'abc':
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (SIZE[0] + 2 * i, SIZE[1] + 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


def shrunk(name, workdir, images):
    """The command line of a config with tiny networks, images and numbers."""
    config = load(name)
    trunk = {
        'model_channels': 32,
        'channel_mult': '(1,)',
        'num_res_blocks': 1,
        'attention_resolutions': '()',
        'num_head_channels': 32,
    }
    train = {'num_steps': 2, 'batch_size': 8, 'log_every': 1}
    settings = {
        'data': {'path': images, 'image_size': str(SIZE), 'num_workers': 2},
        'unet': trunk,
        'train': train,
        'sample': {'respacing': '3', 'num_samples': 8, 'batch_size': 8},
    }
    if config['data']['num_classes'] > 1:
        settings['data']['num_classes'] = 3
    if config['data']['low_res_size']:
        settings['data']['low_res_size'] = str(LOW)
        settings['sample']['base_samples'] = workdir.parent / 'base.npz'
        settings['train']['sample_every'] = 2
    if 'classifier' in config:
        settings |= {'classifier': trunk, 'train_classifier': train | {'validate_every': 2}}
        settings['sample']['scale'] = 2.0
    flags = [
        f'--config.{section}.{key}={value}'
        for section, values in settings.items()
        for key, value in values.items()
    ]
    return ['main', f'--config={CONFIGS / name}.py', f'--workdir={workdir}', *flags]


@pytest.mark.slow
@pytest.mark.parametrize('name', PAPER)
def test_two_steps_of_everything_on_a_small_scale(name, images, tmp_path, capfd):
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (5, *LOW, 3), dtype=np.uint8)
    np.savez(tmp_path / 'base.npz', arr_0=base, arr_1=np.array([2, 1, 0, 1, 2]))
    workdir = tmp_path / 'run'
    command = shrunk(name, workdir, images)
    assert main.main(command) == 0
    assert losses(workdir / 'diffusion') == 2
    samples = open_samples(workdir / 'samples')
    assert samples.take(np.arange(8)).shape == (8, *SIZE, 3)
    labels = samples.labels
    if name.startswith('imagenet'):
        assert losses(workdir / 'classifier') == 2
        return
    for more in ('--stage=train_classifier', '--config.sample.scale=1'):
        assert main.main([*command, more]) == 2
        assert 'the config has no section classifier' in capfd.readouterr().err
    if name.startswith('upsample'):
        np.testing.assert_array_equal(labels, [2, 1, 0, 1, 2, 2, 1, 0])
        assert (workdir / 'diffusion' / 'grids' / 'step_00000002.png').exists()
        other = [flag.replace(f'low_res_size={LOW}', 'low_res_size=(4, 4)') for flag in command]
        assert main.main([*other, '--stage=train']) == 2
        assert 'data.low_res_size: had [4, 8], now [4, 4]' in capfd.readouterr().err


def losses(directory):
    """How many steps a training logged a finite loss of."""
    lines = [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]
    return sum('loss' in line and np.isfinite(line['loss']) for line in lines)

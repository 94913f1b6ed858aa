"""Trainings other than that of the digits: an upsampler, and images without labels."""

import json

import numpy as np
from PIL import Image

from diffusion_jax import main
from tests.test_main import TINY, run

UNLABELLED = """
from diffusion_jax.config import with_defaults

def get_config():
    return with_defaults(
        stages=('train', 'sample'),
        data={'name': 'folder', 'labels': 'none', 'num_classes': 1, 'train_split': '', 'image_channels': 3},
        diffusion={}, unet={'model_channels': 32, 'num_head_channels': 32},
        train={'num_steps': 1, 'batch_size': 8, 'flip': True}, sample={'scale': 0.0, 'ema_rate': 0.0},
    )
"""


def test_an_upsampler(tmp_path, capfd):
    change = {'data__low_res_size': '4,4', 'train__num_steps': 2, 'train__sample_every': 2}
    assert run(tmp_path, 'train', **change) == 0
    stamp = json.loads((tmp_path / 'diffusion' / 'stamp.json').read_text())
    assert stamp['network']['low_res'] and stamp['data']['low_res_size'] == [4, 4]
    assert Image.open(tmp_path / 'diffusion' / 'grids' / 'step_00000002.png').height > 48
    assert run(tmp_path, 'train', **change | {'data__low_res_size': '4,2'}) == 2
    assert 'data.low_res_size: had [4, 4], now [4, 2]' in capfd.readouterr().err


def test_images_without_labels_or_classifier(tmp_path, capfd):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 12, 10, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'bedroom_{i:07d}.png')
    (tmp_path / 'config.py').write_text(UNLABELLED)
    absent = ('classifier', 'train_classifier', 'train.', 'evaluate')
    settings = {key: value for key, value in TINY.items() if not key.startswith(absent)}
    settings['data.path'] = tmp_path
    flags = [f'--config={tmp_path / "config.py"}', f'--workdir={tmp_path / "run"}']
    flags += [f'--config.{key}={value}' for key, value in settings.items()]
    assert main.main(['main', *flags]) == 0
    with np.load(tmp_path / 'run' / 'samples' / 'samples.npz') as samples:
        assert samples['arr_0'].shape == (20, 8, 8, 3) and set(samples['arr_1']) == {0}
    for extra in ('--stage=train_classifier', '--config.sample.scale=1'):
        assert main.main(['main', *flags, extra]) == 2
        assert 'the config has no section classifier' in capfd.readouterr().err

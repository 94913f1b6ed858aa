"""Crops, scaling and downsampling against the authors' release."""

import random

import jax
import numpy as np
import PIL
from PIL import Image

from diffusion_jax.data.transforms import center_crop, random_crop
from diffusion_jax.images import area_downsample, to_float, to_uint8
from tests.parity.case import Case, Check
from tests.parity.compare import compare


def check_preprocess(case: Case) -> None:
    # Pillow's filters may change in their last bit from version to version.
    tolerance = 0 if case.meta['versions']['pillow'] == PIL.__version__ else 2
    for crop in case.meta['config']['cases']:
        size = (crop['image_size'], crop['image_size'])
        prefix = f'{crop["i"]}/'
        golden = {key.removeprefix(prefix): a for key, a in case.arrays.items() if key.startswith(prefix)}
        image = golden.pop('image')
        assert image.shape == (crop['h'], crop['w'], 3)
        for name, expected in golden.items():
            if name == 'center_crop_normalised_flipped_chw':
                flipped = to_float(golden['center_crop'][:, ::-1]).transpose(2, 0, 1)
                compare('images as float', flipped, expected, atol=1e-7)
            elif name == 'center_crop':
                _assert_near(center_crop(image, size), expected, tolerance)
            else:
                draw = random.Random(int(name.removeprefix('random_crop_seed')))
                _assert_near(random_crop(image, size, draw.randrange), expected, tolerance)

    lsun = case.arrays['lsun_box']
    _assert_near(_lsun_crop(case.arrays['0/image'], len(lsun)), lsun, tolerance)

    x = case.arrays['area_in'].transpose(0, 2, 3, 1)
    for name in case.arrays:
        if name.startswith('area_') and name != 'area_in':
            expected = case.arrays[name].transpose(0, 2, 3, 1)
            compare('downsampling', area_downsample(x, expected.shape[1:3]), expected, atol=1e-6)

    as_uint8 = jax.jit(to_uint8)(case.arrays['to_uint8_in'])
    compare('float to uint8', as_uint8, case.arrays['to_uint8_out'])


def _lsun_crop(image: np.ndarray, size: int) -> np.ndarray:
    """How the authors prepared LSUN, before their loader's own crop: the box filter alone."""
    picture = Image.fromarray(image)
    scale = size / min(picture.size)
    picture = picture.resize([round(scale * side) for side in picture.size], Image.Resampling.BOX)
    return center_crop(np.asarray(picture), (size, size))


def _assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert actual.dtype == np.uint8
    compare('crops', actual, expected, atol=tolerance)


CHECKS = [Check('images', lambda case: 'area_in' in case.meta.get('arrays', {}), check_preprocess)]

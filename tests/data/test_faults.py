"""What is wrong with image files is counted and named, whatever kind of source holds them."""

import errno
import io
import itertools
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.checking import check_images
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches, epoch
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.reading import UnreadableImage, read_picture
from diffusion_jax.data.sources.wrappers import skipping
from diffusion_jax.data.transforms import make_transform
from tests.data.copies import COPIES
from tests.errors import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)


def encoded(image, kind='png', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, depth, colour, data=b''):
    """A PNG with these sides, bits a channel and colour type; `data` are its rows."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')


def turned():
    tags = Image.Exif()
    tags[0x112] = 6
    return tags


RGB = Image.fromarray(PIXELS)
GREY = Image.fromarray(PIXELS[..., 0])
PALETTE = RGB.quantize(8)
UNREADABLE = {  # content, and a part of the reason
    'truncated.jpg': (encoded(RGB, 'jpeg')[:-100], 'truncated'),
    'empty.png': (b'', 'unknown image format'),
    'garbage.png': (b'garbage' * 99, 'unknown image format'),
    'sixteen_bits.png': (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256)), '8 bits'),
    'thread.png': (encoded(Image.fromarray(np.zeros((20_000, 1), np.uint8))), '1×20000'),
    'bomb.png': (png(30_000, 30_000, 8, 2), 'decompression bomb'),
}
READABLE = {
    'cmyk.jpg': encoded(RGB.convert('CMYK'), 'jpeg'),
    'palette.png': encoded(PALETTE, transparency=0),
    'turned.jpg': encoded(RGB, 'jpeg', exif=turned()),
    'animated.gif': encoded(RGB, 'gif', save_all=True, append_images=[GREY.convert('RGB')]),
    'long.png': encoded(Image.fromarray(np.zeros((1, 100), np.uint8))),
}
FAULTS = len(UNREADABLE)
CONTENTS = READABLE | {name: content for name, (content, _) in UNREADABLE.items()}
FILES = {f'train/a/{name}': content for name, content in sorted(CONTENTS.items())}
FILES['test/a/1.png'] = encoded(RGB)


@pytest.fixture(scope='module', params=COPIES)
def config(request, tmp_path_factory):
    root = tmp_path_factory.mktemp('faults') / 'data'
    where = COPIES[request.param](root, FILES)
    return DataConfig('auto', **where, image_size=(8, 8), image_channels=3, on_error='skip')


def changed(config, **settings):
    return DataConfig(**vars(config) | settings)


def read(source, index):
    """The image, or what is wrong with it."""
    try:
        return source[index]['image']
    except UnreadableImage as error:
        assert error.where == source.name_of(index)
        return error.problem


def test_every_image_is_read_alike_or_has_its_reason(config):
    source = make_source(config, 'train')
    assert len(source) == len(CONTENTS)
    for index, (name, content) in enumerate(sorted(CONTENTS.items())):
        found = read(source, index)
        if name in READABLE:
            np.testing.assert_array_equal(found, read_picture(content, 3, name))
        else:
            assert UNREADABLE[name][1] in found


def test_a_training_and_an_epoch_skip_each_fault_and_name_it(config, caplog):
    source = skipping(make_source(config, 'train'), config)
    transform = make_transform(config, crop_randomly=True)
    iterator = batches(source, 8, seed=0, transform=transform, num_workers=2)
    assert all(batch['image'].shape == (8, 8, 8, 3) for batch in itertools.islice(iterator, 4))
    iterator.close()
    assert len(source.unreadable) == FAULTS == len(caplog.records)
    assert f'{FAULTS} of at most 100' in caplog.records[-1].message
    assert sum(len(batch['label']) for batch in epoch(source, 4, transform=transform)) == len(READABLE)


def test_faults_are_found_before_the_first_step(config):
    source = make_source(config, 'train')
    check_images(source, config, 'train', lambda: False)
    counted = f'{FAULTS} of the {len(source)} train images cannot be read'
    with refused('config.data', counted, 'config.data.on_error=skip'):
        check_images(source, changed(config, on_error='stop'), 'train', lambda: False)
    with refused('config.data.max_skipped', counted):
        check_images(source, changed(config, max_skipped=FAULTS - 1), 'train', lambda: False)


def test_more_than_max_skipped_stop(config):
    source = skipping(make_source(config, 'train'), changed(config, max_skipped=FAULTS - 1))
    with refused('config.data.max_skipped', f'got {FAULTS - 1}'):
        list(epoch(source, 4, transform=make_transform(config)))


@pytest.fixture(params=COPIES)
def sound(request, tmp_path):
    files = {f'{split}/a/{i}.png': encoded(RGB) for split in ('train', 'test') for i in range(3)}
    config = DataConfig('auto', **COPIES[request.param](tmp_path / 'data', files), image_channels=3)
    return make_source(config, 'train')


@pytest.mark.parametrize(
    'fault',
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    ],
)
def test_files_that_vanish_or_may_not_be_read_are_unreadable_images(sound, monkeypatch, fault):
    """Root may read everything, so that a refusal is simulated. An LMDB and an archive stay open."""

    def refuse(*args, **options):
        raise fault

    monkeypatch.setattr('builtins.open', refuse)
    for index in range(3):
        if sound.files:
            assert sound[index]['image'].shape == (30, 20, 3)
        else:
            with pytest.raises(UnreadableImage) as error:
                sound[index]
            assert os.strerror(fault.errno) in error.value.problem
            assert error.value.where == sound.name_of(index)


def test_colour_pngs_of_sixteen_bits_keep_the_high_byte():
    """As Pillow reads them. Of a single channel it is not known which value is white: 4095 or 65535."""
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in PIXELS.astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(read_picture(png(20, 30, 16, 2, rows), 3, 'deep.png'), PIXELS)

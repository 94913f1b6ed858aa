"""Archives have the folders of their files, and what cannot be read in them is named."""

import io
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources import make_source, open_source
from diffusion_jax.data.sources.reading import UnreadableImage
from tests.errors import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)


def png(index):
    file = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(file, 'png')
    return file.getvalue()


def write(path, names, content=png):
    """An archive of these files; image i has the pixels i."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            for i, name in enumerate(names):
                archive.writestr(name, content(i))
    else:
        with tarfile.open(path, 'w') as archive:
            for i, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(content(i))
                archive.addfile(info, io.BytesIO(content(i)))
    return path


def source_of(path, split='train', **settings):
    return make_source(DataConfig('auto', path=str(path), image_channels=3, **settings), split)


def found(source):
    return source.class_names, source.labels.tolist(), [os.path.basename(name) for name in source.names]


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
@pytest.mark.parametrize(
    ('names', 'settings', 'expected'),
    [
        (['train/b/1.png', 'train/a/x/2.png', 'test/a/3.png'], {}, (('a', 'b'), [0, 1], ['2.png', '1.png'])),
        (['./train/a/1.png', './test/a/2.png'], {}, (('a',), [0], ['1.png'])),
        (['data/train/a/1.png', 'data/test/a/2.png'], {}, (('a',), [0], ['1.png'])),
        (['a/1.png', 'b/2.png'], {}, (('a', 'b'), [0, 1], ['1.png', '2.png'])),
        (['data/a/1.png', 'data/b/2.png', 'README.txt'], {}, (('a', 'b'), [0, 1], ['1.png', '2.png'])),
        (['data/a/1.png', 'data/b/2.png'], {'train_split': 'b', 'labels': 'none'}, ((), [0], ['2.png'])),
        (['a/1.png', 'a/2.png'], {'train_split': ''}, (('a',), [0, 0], ['1.png', '2.png'])),
        (
            ['ant_1.png', 'bee_2.png'],
            {'labels': 'prefix'},
            (('ant', 'bee'), [0, 1], ['ant_1.png', 'bee_2.png']),
        ),
        (['2.png', 'x/1.png'], {'labels': 'none'}, ((), [0, 0], ['2.png', '1.png'])),
    ],
)
def test_folders_are_splits_and_classes_as_outside(tmp_path, suffix, names, settings, expected):
    assert found(source_of(write(tmp_path / f'x.{suffix}', names), **settings)) == expected


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
def test_classes_keep_their_numbers_in_the_test_images(tmp_path, suffix):
    path = write(tmp_path / f'x.{suffix}', ['train/a/1.png', 'train/b/2.png', 'val/b/3.png', 'val/c/4.png'])
    with refused('val/c/4.png', "'c'"):
        source_of(path, 'test', test_split='val')
    with refused('x.' + suffix + '/test', 'train, val', 'config.data.test_split'):
        source_of(path, 'test')
    path = write(tmp_path / f'y.{suffix}', ['train/a/1.png', 'train/b/2.png', 'val/b/3.png'])
    assert found(source_of(path, 'test', test_split='val')) == (('a', 'b'), [1], ['3.png'])


def test_splits_may_be_archives_of_their_own(tmp_path):
    for name in ('train', 'val'):
        write(tmp_path / f'{name}.zip', [f'{name}/a/1.png', f'{name}/b/2.png'])
    settings = {'train_split': 'train.zip', 'test_split': 'val.zip', 'labels': 'none'}
    for split in ('train', 'test'):
        assert len(source_of(tmp_path, split, **settings)) == 2


def test_other_files_are_counted(tmp_path):
    names = ['a/1.png', 'a/notes.txt', '__MACOSX/a/._1.png', 'a/.hidden.png', '.git/2.png']
    source = source_of(write(tmp_path / 'x.zip', names))
    assert len(source) == 1
    assert '1 with suffix .txt (a/notes.txt)' in source.skipped and '3 hidden' in source.skipped
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        link = tarfile.TarInfo('a/2.png')
        link.type, link.linkname = tarfile.SYMTYPE, '1.png'
        archive.addfile(link)
        info = tarfile.TarInfo('a/1.png')
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
    source = source_of(tmp_path / 'x.tar')
    assert len(source) == 1 and '1 no regular file (a/2.png)' in source.skipped
    link = zipfile.ZipInfo('a/2.png')
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / 'links.zip', 'w') as archive:
        archive.writestr(link, '1.png')
        archive.writestr('a/1.png', png(1))
    assert len(source_of(tmp_path / 'links.zip')) == 1
    with refused('none.zip', '1 with suffix .txt'):
        source_of(write(tmp_path / 'none.zip', ['1.txt']))


def test_a_tar_that_ends_in_a_zip_is_a_tar_and_leading_slashes_do_not_count(tmp_path):
    inner = write(tmp_path / 'x.zip', ['c/0.png', 'd/1.png']).read_bytes()
    names = ['/images/a/0.png', '/images/b/1.png', '/x.zip']
    path = write(tmp_path / 'x.tar', names, lambda i: inner if i == 2 else png(i))
    assert found(source_of(path)) == (('a', 'b'), [0, 1], ['0.png', '1.png'])


@pytest.mark.parametrize(('mode', 'command'), [('gz', 'gzip -dc'), ('bz2', 'bzip2 -dc'), ('xz', 'xz -dc')])
@pytest.mark.parametrize('name', ['x.tar', 'x.tar.{}'])
def test_compressed_tars_are_refused_with_the_remedy(tmp_path, mode, command, name):
    path = tmp_path / name.format(mode)
    with tarfile.open(path, f'w:{mode}') as archive:
        archive.addfile(tarfile.TarInfo('a/1.png'), io.BytesIO())
    with refused(path.name, f'`{command} {path.name} > '):
        source_of(path)


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
def test_damaged_archives_are_refused(tmp_path, suffix):
    path = write(tmp_path / f'x.{suffix}', ['a/1.png', 'b/2.png'])
    content = path.read_bytes()
    for i, damaged in enumerate(
        (b'', b'garbage' * 200, content[: len(content) // 2] if suffix == 'zip' else b'x')
    ):
        path = tmp_path / f'{i}.{suffix}'
        path.write_bytes(damaged)
        with refused(path.name):
            source_of(path)


def test_encrypted_and_rare_zips_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('a/1.png', png(1))
    with refused('x.zip', 'a/1.png', 'deflate'):
        source_of(tmp_path / 'x.zip')
    path = write(tmp_path / 'y.zip', ['a/1.png'])
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\1\2') + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(content)
    with refused('y.zip', 'encrypted'):
        source_of(path)


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
def test_an_image_that_changed_since_it_was_listed_is_named(tmp_path, suffix, monkeypatch):
    path = write(tmp_path / f'x.{suffix}', ['a/1.png', 'a/2.png'])
    source = source_of(path)
    content = bytearray(path.read_bytes())
    content[source.members[1][0] + 50] ^= 255
    path.write_bytes(content)
    assert source[0]['image'].tobytes() == PIXELS[0].tobytes()
    with refused('a/2.png', kind=UnreadableImage):
        source[1]
    path.write_bytes(content[: source.members[1][0] + 20])
    with refused('a/2.png', 'the archive ends', kind=UnreadableImage):
        source[1]
    monkeypatch.setattr('diffusion_jax.data.sources.archive.LARGEST', 10)
    with refused('a/1.png', 'bytes', kind=UnreadableImage):
        source[0]


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
def test_an_archive_that_is_replaced_or_removed_is_read_as_it_was_listed(tmp_path, suffix):
    path = write(tmp_path / f'x.{suffix}', ['a/1.png', 'a/2.png'])
    source = source_of(path)
    other = write(tmp_path / f'y.{suffix}', ['a/1.png', 'a/2.png'], lambda index: png(index + 2))
    os.replace(other, path)
    assert [source[i]['image'].tobytes() for i in range(2)] == [PIXELS[i].tobytes() for i in range(2)]
    open_source.cache_clear()
    assert source_of(path)[0]['image'].tobytes() == PIXELS[2].tobytes()
    path.unlink()
    assert source[1]['image'].tobytes() == PIXELS[1].tobytes()


@pytest.mark.parametrize('suffix', ['zip', 'tar'])
def test_threads_and_other_processes_read_it(tmp_path, suffix):
    source = source_of(write(tmp_path / f'x.{suffix}', [f'a/{i:02}.png' for i in range(20)]))
    copy = pickle.loads(pickle.dumps(source))
    for each in (source, copy):
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(lambda i, each=each: each[i]['image'], [*range(20)] * 5))
        np.testing.assert_array_equal(images, np.concatenate([PIXELS] * 5))


def test_headers_are_read_once_for_both_splits(tmp_path, monkeypatch):
    path = write(tmp_path / 'x.tar', ['train/a/1.png', 'test/a/2.png'])
    source_of(path)
    monkeypatch.setattr(tarfile, 'open', None)
    assert len(source_of(path, 'test')) == 1
    open_source.cache_clear()
    assert len(source_of(path)) == 1


def test_a_zip_that_needs_large_offsets_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, 'ZIP64_LIMIT', 10)
    path = write(tmp_path / 'x.zip', ['a/1.png', 'a/2.png'])
    assert source_of(path)[1]['image'].tobytes() == PIXELS[1].tobytes()

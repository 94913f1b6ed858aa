"""Prepared images: the same batches as their originals, resumed after a kill, refused where damaged."""

import dataclasses
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.commands.prepare import main
from diffusion_jax.data import preparing
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names, make_source, open_source
from diffusion_jax.data.sources.prepared import read_manifest
from diffusion_jax.data.sources.reading import UnreadableImage
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from diffusion_jax.interruption import Interrupted
from tests.errors import refused

SIZES = ((21, 40), (40, 23), (16, 16), (90, 70), (8, 12), (33, 17))
FOLDER = DataConfig('folder', image_size=(16, 16), image_channels=3)


def write_images(folder, split='train', count=6):
    for i in range(count):
        path = folder / split / ('ant', 'bee')[i % 2] / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (*SIZES[i % 6], 3), np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of six images, which are prepared in shards of two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparing, 'IMAGES_PER_SHARD', 2)
    open_source.cache_clear()
    write_images(tmp_path / 'images')
    return tmp_path / 'images'


def prepare(*options, size='16', out='out'):
    open_source.cache_clear()
    arguments = ('images', f'--out={out}', f'--size={size}', '--threads=2', *options)
    assert main(['diffusion-jax prepare', *arguments]) == 0
    return read_manifest(Path(out, 'train'))


def prepared(**settings):
    open_source.cache_clear()
    return dataclasses.replace(FOLDER, **{'name': 'auto', 'path': 'out'} | settings)


def take(config, split='train', count=4, **augmentation):
    source = make_source(config, split)
    iterator = batches(source, 4, seed=1, transform=make_transform(config, **augmentation), num_workers=1)
    taken = [next(iterator) for _ in range(count)]
    iterator.close()
    return taken


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        for key in ('image', 'label'):
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def shards():
    return sorted(Path('out/train').glob('*.array_record'))


def contents():
    return {path.name: path.read_bytes() for path in Path('out/train').iterdir() if path.name[0] != '.'}


# What is stored


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('labels', ['folder', 'none'])
def test_batches_are_those_of_the_original_images(images, channels, labels):
    manifest = prepare(f'--channels={channels}', f'--labels={labels}')
    originals = dataclasses.replace(FOLDER, path='images', image_channels=channels, labels=labels)
    copies = prepared(image_channels=channels, labels=labels)
    assert_same(take(copies, flip=True), take(originals, flip=True))
    one, other = make_source(copies, 'train'), make_source(originals, 'train')
    assert class_names(one) == class_names(other) == manifest.class_names
    np.testing.assert_array_equal(one.labels, other.labels)
    assert manifest.class_counts == ((3, 3) if labels == 'folder' else ())
    assert [shard.images for shard in manifest.shards] == [2, 2, 2]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards()]
    assert [shard.sha256 for shard in manifest.shards] == digests


def test_full_size_serves_random_crops(images):
    assert prepare(size='full').image_size is None
    options = {'crop_randomly': True, 'flip': True}
    assert_same(take(prepared(), **options), take(dataclasses.replace(FOLDER, path='images'), **options))


def test_images_need_not_be_square(images):
    assert prepare(size='16x24').image_size == (16, 24)
    shape = {'image_size': (16, 24)}
    assert_same(take(prepared(**shape)), take(dataclasses.replace(FOLDER, path='images', **shape)))


def test_labels_may_be_left_aside(images):
    prepare()
    source = make_source(prepared(labels='none'), 'train')
    assert source.class_names == () and not source.labels.any() and source[1]['label'] == 0


def test_a_test_split_keeps_the_class_numbers_of_training(images):
    Path('images/val/bee').mkdir(parents=True)
    os.link('images/train/bee/1.jpg', 'images/val/bee/1.jpg')
    prepare('--split=train,val')
    (batch,) = take(prepared(test_split='val'), 'test', 1)
    assert batch['label'].tolist() == [1] * 4


def test_splits_of_other_classes_are_refused(images):
    prepare()
    Path('images/val/cat').mkdir(parents=True)
    os.link('images/train/bee/1.jpg', 'images/val/cat/1.jpg')
    assert main(['diffusion-jax prepare', 'images', '--out=out', '--size=16', '--split=val']) == 0
    with refused('val', 'cat'):
        make_source(prepared(test_split='val'), 'test')


def test_identity_is_that_of_the_pixels(images):
    prepare()
    prepare(out='again')
    prepare(size='20', out='larger')
    first, again, larger = (
        make_source(prepared(path=p), 'train').identity for p in ('out', 'again', 'larger')
    )
    assert first == again != larger


# Kills, faults and refusals


def test_a_killed_command_resumes_and_keeps_complete_shards(images):
    """SIGKILL once two shards are complete; reading the fourth image of the list waits until then."""
    code = """
import sys, time
from pathlib import Path
from diffusion_jax.commands.prepare import main
from diffusion_jax.data import preparing
from diffusion_jax.data.sources.folder import FolderSource
preparing.IMAGES_PER_SHARD = 2
read = FolderSource.picture
def slow(self, index):
    if index == 5:
        time.sleep(60)
    return read(self, index)
FolderSource.picture = slow
main(['prepare', 'images', '--out=out', '--size=16', '--threads=1'])
"""
    environment = os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, '-c', code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(Path().glob('out/train/.00002*')) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(shards()) == 2
    with refused('out/train', '2 of 3', 'diffusion-jax prepare'):
        make_source(prepared(), 'train')
    times = [path.stat().st_mtime_ns for path in shards()]
    prepare()
    assert [path.stat().st_mtime_ns for path in shards()[:2]] == times, 'complete shards were written again'
    assert not list(Path('out/train').glob('.*.tmp'))
    resumed = contents()
    prepare(out='undisturbed')
    for path in Path('undisturbed/train').glob('[!.]*'):
        assert resumed[path.name] == path.read_bytes()


def test_a_signal_stops_between_images(images):
    source, calls = open_source(dataclasses.replace(FOLDER, path='images'), 'train'), iter(range(100))
    job = preparing.Job(source, Path('out'), 0, 1, lambda: next(calls) == 3)
    planned = preparing.plan(source, 'images', 'train', (16, 16), 3)
    with pytest.raises(Interrupted, match='2 images'):
        preparing.prepare(job, planned)
    assert len(read_manifest(Path('out')).shards) == 1
    assert preparing.prepare(job, planned).complete


def test_the_same_images_again_change_nothing(images):
    prepare()
    before = {path: path.stat().st_mtime_ns for path in Path('out/train').glob('[!.]*')}
    Path('images').rename('moved')
    open_source.cache_clear()
    assert main(['diffusion-jax prepare', 'moved', '--out=out', '--size=16']) == 0
    assert {path: path.stat().st_mtime_ns for path in Path('out/train').glob('[!.]*')} == before


@pytest.mark.parametrize('option', ['--size=8', '--size=full', '--channels=1', '--labels=none'])
def test_a_folder_prepared_in_another_way_is_refused(images, option):
    prepare()
    before = contents()
    with refused('manifest.json', '--out'):
        prepare(option)
    write_images(images, count=8)
    with refused('manifest.json', 'other images', '--out'):
        prepare()
    assert contents() == before


def test_a_folder_of_other_files_is_refused(images):
    Path('out/train').mkdir(parents=True)
    Path('out/train/notes.txt').write_text('mine')
    with refused('out/train', 'notes.txt'):
        prepare()
    assert os.listdir('out/train') == ['notes.txt']
    Path('pictures').mkdir()
    Path('pictures/mine.png').write_text('mine')
    with refused('pictures', 'mine.png'):
        prepare(out='pictures')
    assert os.listdir('pictures') == ['mine.png']
    with refused('images/train', 'ant'):
        prepare(out='images')


def test_damaged_shards_are_named_and_written_again(images):
    intact = (prepare(), contents())[1]
    first, second, _ = shards()
    second.unlink()
    with refused(second.name, 'missing', 'diffusion-jax prepare'):
        make_source(prepared(), 'train')
    first.write_bytes(first.read_bytes()[:-1])
    with refused(first.name, f'{len(intact[first.name]):,}'):
        make_source(prepared(), 'train')
    prepare()
    assert contents() == intact


def test_a_flipped_bit_is_an_unreadable_image(images):
    prepare()
    path = shards()[1]
    data = bytearray(path.read_bytes())
    image = make_source(prepared(), 'train')[3]['image'].tobytes()
    data[data.index(image) + 100] ^= 1
    path.write_bytes(data)
    source = make_source(prepared(), 'train')
    assert source[2]['image'].shape == (16, 16, 3)
    with refused('00001.array_record, record 1', 'mismatch', kind=UnreadableImage):
        source[3]
    table = source.table[2:4].tobytes()
    data[data.index(table)] ^= 1
    path.write_bytes(data)
    with refused(path.name, 'mismatch', 'remove it'):
        make_source(prepared(), 'train')


@pytest.mark.parametrize('text', ['{', '{%s}', '[{%s}]', '{%s, "version": 99}', '{%s, "shards": 3}'])
def test_a_damaged_manifest_is_one_line(images, text):
    prepare()
    Path('out/train/manifest.json').write_text(text.replace('%s', '"images_per_shard": 2'))
    if '%s' not in text:  # it could be anyone's
        with refused('out/train', 'other files'):
            prepare()
        return
    for call in (prepare, lambda: make_source(prepared(), 'train')):
        with refused('manifest.json', 'another folder'):
            call()


def test_unreadable_images_stop_or_are_listed(images, capsys):
    Path('images/train/ant/2.jpg').write_bytes(b'')
    with refused('ant/2.jpg', '--on-error=skip'):
        prepare()
    manifest = prepare('--on-error=skip')
    assert [(each.image, each.shard) for each in manifest.skipped] == [('images/train/ant/2.jpg', 0)]
    assert [shard.images for shard in manifest.shards] == [1, 2, 2] and manifest.class_counts == (2, 3)
    assert 'left out: images/train/ant/2.jpg: cannot be read' in capsys.readouterr().out
    shards()[0].unlink()
    assert prepare('--on-error=skip') == manifest
    source = make_source(prepared(), 'train')
    expected = make_source(dataclasses.replace(FOLDER, path='images'), 'train')
    for copy, original in enumerate((0, 2, 3, 4, 5)):
        assert source[copy]['label'] == expected[original]['label']
    with refused('ant/2.jpg', 'unreadable images: 1, allowed: 0', '--max-skipped'):
        prepare('--on-error=skip', '--max-skipped=0', out='fewer')
    for path in Path('images/train').rglob('*.jpg'):
        path.write_bytes(b'')
    with refused('images', '6'):
        prepare('--on-error=skip', out='none')


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(images):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with refused('00000.array_record', 'cannot be written', 'make room'):
            prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(os.listdir('out/train')) == ['.lock', 'manifest.json']
    assert prepare().complete


@pytest.mark.parametrize('call', ['open', 'write', 'close'])
def test_a_disk_that_is_full_is_one_line_whichever_call_meets_it(images, monkeypatch, call):
    class Writer(preparing.ArrayRecordWriter):
        def close(self):
            super().close()
            raise RuntimeError(f'{call}() failed: No space left on device; in a file')

    monkeypatch.setattr(preparing, 'ArrayRecordWriter', Writer)
    with refused('00000.array_record', 'cannot be written (No space left on device)', 'make room'):
        prepare()
    assert sorted(os.listdir('out/train')) == ['.lock', 'manifest.json']


def test_another_error_of_the_writer_stays(images, monkeypatch):
    def fail(*args):
        raise RuntimeError('a defect')

    monkeypatch.setattr(preparing, 'ArrayRecordWriter', fail)
    with pytest.raises(RuntimeError, match='a defect'):
        prepare()


def test_arguments_that_name_no_folder_are_refused(images):
    Path('notes.txt').write_text('mine')
    with refused('notes.txt', 'is a file'):
        prepare(out='notes.txt')
    Path('out').mkdir()
    Path('out/train').write_text('mine')
    with refused('out/train', 'is a file'):
        prepare()
    with refused('SOURCE', 'is empty'):
        main(['diffusion-jax prepare', '', '--out=new', '--size=16'])


def test_settings_that_need_other_pixels_are_refused(images):
    prepare()
    with refused('config.data.image_size', '16×17', '16×16'):
        make_source(prepared(image_size=(16, 17)), 'train')
    with refused('config.data.image_channels', '1', '3'):
        make_source(prepared(image_channels=1), 'train')
    with refused('out/test', 'no such folder', 'train'):
        make_source(prepared(), 'test')
    with refused('--threads', '0'):
        prepare('--threads=0')
    with refused('--labels', "'colour'"):
        prepare('--labels=colour')
    Path('out/test').mkdir()
    with refused('out/test', 'manifest.json'):
        make_source(prepared(name='prepared'), 'test')
    for size in ('big', '0', '8x8x8'):
        with pytest.raises(UserError, match='--size'):
            prepare(size=size)

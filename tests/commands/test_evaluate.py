"""`diffusion-jax evaluate` and `make-reference` as their users run them, with a random Inception."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.commands import cli
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import pixels
from diffusion_jax.evaluation.feature_stats import of_features
from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.inception import network
from diffusion_jax.evaluation.inception.files import (
    InceptionWeights,
    load_inception,
    params_sha256,
    save_inception,
)
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_json, write_npz

ROOT = Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 256, (16, 16, 16, 3), np.uint8)
REFERENCE = RNG.integers(0, 128, (16, 16, 16, 3), np.uint8)


def random_inception(path):
    """Writes weights with which features of images differ about as much as images do."""

    def draw(shape):
        scale = np.sqrt(2 / np.prod(shape.shape[:-1])) if len(shape.shape) > 1 else 0.1
        return np.float32(scale) * np.random.default_rng(shape.size).standard_normal(shape.shape, np.float32)

    params = jax.tree.map(draw, network.param_shapes())
    inception = InceptionWeights(params, params_sha256(params), 'random.pth', 'abc')
    save_inception(path, inception)


def compare_pixels(samples, reference):
    return compare(of_features(pixels(samples)), of_features(pixels(reference)))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Samples as an npz, a reference as images, and weights of Inception."""
    folder = tmp_path_factory.mktemp('evaluate')
    np.savez(folder / 'samples.npz', SAMPLES, np.arange(16) % 4)
    (folder / 'reference').mkdir()
    for i, image in enumerate(REFERENCE):
        Image.fromarray(image).save(folder / 'reference' / f'{i:02}.png')

    random_inception(folder / 'inception.safetensors')
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the program; returns its exit code and what it printed."""

    def run(*argv):
        monkeypatch.setattr(sys, 'argv', ['diffusion-jax', *map(str, argv)])
        code = cli.main()
        return code, ''.join(capsys.readouterr())

    return run


@pytest.fixture(scope='module')
def features(folder):
    """Of the samples and the reference, by the network itself."""
    params = load_inception(folder / 'inception.safetensors').params
    look = jax.jit(network.apply)
    return [look(params, images) for images in (SAMPLES, REFERENCE)], params


@pytest.fixture
def evaluated(folder, run, tmp_path):
    weights = f'--inception={folder / "inception.safetensors"}'
    return lambda *argv: run(
        'evaluate', *argv, weights, f'--workdir={tmp_path}', f'--out={tmp_path}/out.json'
    )


def test_metrics_are_those_of_the_features(folder, features, evaluated, tmp_path):
    code, printed = evaluated(folder / 'samples.npz', folder / 'reference')
    assert code == 0
    (samples, reference), params = features
    result = json.loads((tmp_path / 'out.json').read_text())
    fid = frechet_distance(moments(samples.pool), moments(reference.pool))
    sfid = frechet_distance(moments(samples.spatial), moments(reference.spatial))
    score = inception_score(np.asarray(network.logits(params, samples.pool)))
    for name, value in (('fid', fid), ('sfid', sfid), ('inception_score', score)):
        assert result[name] == pytest.approx(value, rel=1e-4)
    assert result.keys() >= {'precision', 'recall', 'kid'} and 'standard_errors' not in result
    protocol = result['protocol']
    assert protocol['num_samples'] == 16 and protocol['class_balance'] == 'balanced over 4 classes'
    assert protocol['inception']['source'] == 'random.pth' and protocol['inception']['resize'] == 'tensorflow'
    for expected in ('50,000', 'VIRTUAL_', 'singular covariance', 'fid '):
        assert expected in printed


@pytest.mark.slow
def test_standard_errors_on_request(folder, evaluated, tmp_path):
    code, printed = evaluated(folder / 'samples.npz', folder / 'reference', '--bootstrap=2')
    assert code == 0 and '±' in printed
    errors = json.loads((tmp_path / 'out.json').read_text())['standard_errors']
    assert set(errors) == {'fid', 'sfid', 'inception_score', 'precision', 'recall', 'kid'}
    assert errors['fid'] > 0


@pytest.mark.slow
def test_a_reference_file_stands_for_the_images(folder, run, evaluated, tmp_path):
    reference = tmp_path / 'reference.npz'
    weights = f'--inception={folder / "inception.safetensors"}'
    made = ['make-reference', folder / 'reference', weights, f'--workdir={tmp_path}', f'--out={reference}']
    code, printed = run(*made)
    assert code == 0 and 'statistics of 16 images' in printed and 'singular' in printed
    with np.load(reference) as file:
        assert {image.tobytes() for image in file['arr_0']} == {image.tobytes() for image in REFERENCE}
        assert file['mu'].shape == (2048,) and file['sigma_s'].shape == (2023, 2023)
    results = []
    for side in (folder / 'reference', reference):
        code, printed = evaluated(folder / 'samples.npz', side)
        assert code == 0
        results.append(json.loads((tmp_path / 'out.json').read_text()))
    code, _ = evaluated(folder / 'reference', reference)
    assert abs(json.loads((tmp_path / 'out.json').read_text())['fid']) < 1e-6
    for name in ('fid', 'sfid', 'precision', 'recall', 'kid'):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-9)
    assert results[1]['protocol']['reference_images'] == 16
    code, printed = evaluated(folder / 'samples.npz', reference, '--resize=pytorch_fid')
    assert code == 2 and 'has features of inception-' in printed


def test_names_that_are_not_utf8_and_files_that_are_skipped(folder, run, tmp_path):
    """Both commands name them, escaped."""
    images = bytes(tmp_path) + b'/imag\xe9s'
    shutil.copytree(bytes(folder) + b'/reference', images)
    os.rename(images + b'/00.png', images + b'/caf\xe9.png')
    for name in (b'bad\xe9.png', b'note\xe9.txt'):
        open(os.path.join(images, name), 'w').close()
    paths = [f'--workdir={tmp_path}', f'--out={tmp_path}/out.json']
    code, printed = run('evaluate', folder / 'samples.npz', os.fsdecode(images), *paths)
    assert code == 0
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['protocol']['reference_images'] == 16
    (left_out,), (skipped,) = result['protocol']['left_out'], result['protocol']['skipped_files']
    assert 'bad\\xe9.png: cannot be read' in left_out and '1 with suffix .txt (note\\xe9.txt)' in skipped
    assert 'bad\\xe9.png' in printed and 'note\\xe9.txt' in printed
    out = os.fsdecode(bytes(tmp_path) + b'/r\xe9f.npz')
    weights = f'--inception={folder / "inception.safetensors"}'
    code, printed = run(
        'make-reference', os.fsdecode(images), weights, f'--workdir={tmp_path}', f'--out={out}'
    )
    assert code == 0 and os.path.exists(out)
    assert 'statistics of 16 images' in printed
    assert 'bad\\xe9.png: cannot be read' in printed and 'note\\xe9.txt' in printed


def test_features_of_any_network_need_no_inception(run, tmp_path):
    a, b = RNG.normal(size=(2, 30, 4))
    np.save(tmp_path / 'a.npy', a)
    np.savez(tmp_path / 'b.npz', features=b)
    code, printed = run('evaluate', tmp_path / 'a.npy', tmp_path / 'b.npz', f'--workdir={tmp_path}')
    assert code == 0, printed
    (path,) = tmp_path.glob('a-against-b-*.json')
    result = json.loads(path.read_text())
    assert result['frechet_distance'] == pytest.approx(frechet_distance(moments(a), moments(b)))
    assert 'fid' not in result and 'the paper' not in printed
    assert result['protocol']['features_read_from'] == [str(tmp_path / name) for name in ('a.npy', 'b.npz')]


@pytest.mark.slow
def test_the_split_of_a_config_is_a_reference(folder, run, tmp_path, monkeypatch):
    """Grey digits, as three equal channels; a few of them, so that it is quick."""
    weights = f'--inception={folder / "inception.safetensors"}'
    few = digits_source('test')
    few = type(few)(few.images[:9], few.labels[:9], few.class_names)
    monkeypatch.setattr('diffusion_jax.data.sources.open_source', lambda config, split: few)
    config = f'--config={ROOT / "configs" / "digits.py"}'
    out = f'--out={tmp_path / "digits.npz"}'
    code, printed = run('make-reference', config, '--split=test', weights, f'--workdir={tmp_path}', out)
    assert code == 0, printed
    with np.load(tmp_path / 'digits.npz') as file:
        np.testing.assert_array_equal(file['arr_0'], few.images.repeat(3, axis=-1))


@pytest.fixture
def without_inception(run, tmp_path):
    """Evaluates without Inception; returns the result."""

    def evaluate(*argv):
        code, printed = run('evaluate', *argv, f'--workdir={tmp_path}', f'--out={tmp_path}/out.json')
        assert code == 0, printed
        return json.loads((tmp_path / 'out.json').read_text())

    return evaluate


def test_small_images_are_compared_by_their_pixels(folder, without_inception):
    result = without_inception(folder / 'samples.npz', folder / 'reference', '--bootstrap=2')
    metrics = {name: value for name, value in result.items() if isinstance(value, float)}
    assert metrics == pytest.approx(compare_pixels(SAMPLES, REFERENCE), rel=1e-6)
    assert result['standard_errors'].keys() == metrics.keys()
    assert result['protocol']['features'] == 'pixels in [0, 1]'
    assert any('no FID' in remark for remark in result['remarks'])
    assert 'features_read_from' not in result['protocol']


def test_statistics_on_both_sides_need_no_images(without_inception, tmp_path):
    a, b = RNG.normal(size=(2, 30, 4))
    np.savez(tmp_path / 'a.npz', SAMPLES, mu=a.mean(axis=0), sigma=np.cov(a, rowvar=False))
    np.savez(tmp_path / 'b.npz', mu=b.mean(axis=0), sigma=np.cov(b, rowvar=False))
    result = without_inception(tmp_path / 'a.npz', tmp_path / 'b.npz')
    assert result['frechet_distance'] == pytest.approx(frechet_distance(moments(a), moments(b)))
    assert 'precision' not in result and 'pixels' not in result['protocol']['features']


@pytest.fixture
def drawn(tmp_path):
    """A run's samples of the classes that its stamp calls b, while half of them are drawn; and images of a, b
    and c, where class b comes second, not third."""
    sample = {'num_samples': 16, 'respacing': 'ddim25', 'labels': 'balanced', 'classes': [2]}
    stamp = {
        'sample': sample,
        'process': {'num_timesteps': 100, 'schedule': 'cosine'},
        'diffusion': {'step': 7},
    }
    samples = tmp_path / 'run' / 'samples'
    write_json(samples / 'stamp.json', stamp | {'classes': ['c', 'a', 'b']})
    write_npz(shard(samples / 'shards', 0, 8).path, arr_0=SAMPLES[:8], arr_1=np.full(8, 2))
    for i, image in enumerate(REFERENCE[:15]):
        path = tmp_path / 'classes' / 'abc'[i % 3] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return samples, tmp_path / 'classes'


def test_samples_of_a_class_are_compared_with_that_class(drawn, without_inception):
    result = without_inception(*drawn, '--same-classes')
    assert result['protocol']['reference_images'] == 5
    protocol = result['protocol']
    assert protocol['classes'] == [2] and protocol['class_names'] == ['c', 'a', 'b']
    assert '1 of 3 classes (b)' in protocol['reference_classes'] and protocol['class_balance'] == 'one class'
    assert protocol['steps'] == 25 and protocol['checkpoint_step'] == 7
    expected = compare_pixels(SAMPLES[:8], REFERENCE[1:15:3])
    assert result['frechet_distance'] == pytest.approx(expected['frechet_distance'], rel=1e-9)
    assert any('8 of 16 samples' in remark for remark in result['remarks'])


def test_a_remark_reports_other_classes_in_the_reference(drawn, without_inception):
    result = without_inception(*drawn)
    assert result['protocol']['reference_images'] == 15
    (remark,) = [remark for remark in result['remarks'] if '1 of 3 classes (b)' in remark]
    assert '--same-classes' in remark


def test_a_comparison_of_a_set_with_itself_is_remarked(folder, without_inception):
    result = without_inception(folder / 'reference', folder / 'reference', '--size=8')
    assert any('with themselves' in remark for remark in result['remarks'])
    assert result['frechet_distance'] < 1e-9


def test_a_result_replaces_nothing_that_is_read(folder, run, tmp_path):
    samples, weights = folder / 'samples.npz', folder / 'inception.safetensors'
    before = samples.read_bytes()
    for argv in (
        ['evaluate', samples, samples, f'--out={samples}'],
        ['make-reference', samples, f'--inception={weights}', f'--out={folder}/reference/../samples.npz'],
    ):
        code, printed = run(*argv, f'--workdir={tmp_path}')
        assert code == 2 and 'is also an input' in printed
    assert samples.read_bytes() == before


def test_what_is_wrong_is_said_in_one_line(folder, run, tmp_path):
    samples, weights = folder / 'samples.npz', f'--inception={folder / "inception.safetensors"}'
    np.savez(tmp_path / 'empty.npz', x=np.zeros(3))
    np.save(tmp_path / 'narrow.npy', np.zeros((9, 3)))
    np.save(tmp_path / 'wide.npy', np.zeros((9, 4)))
    np.savez(tmp_path / 'large.npz', np.zeros((4, 33, 32, 3), np.uint8))
    np.savez(tmp_path / 'few.npz', SAMPLES[:3])
    np.savez(tmp_path / 'statistics.npz', mu=np.zeros(2048), sigma=np.eye(2048))
    write_json(tmp_path / 'run' / 'samples' / 'stamp.json', {})
    write_npz(shard(tmp_path / 'full' / 'samples' / 'shards', 0, 1).path, arr_0=SAMPLES[:1], arr_1=[0])
    reference = folder / 'reference'
    narrow, wide, out = tmp_path / 'narrow.npy', tmp_path / 'wide.npy', '--out=x.npz'
    cases = {
        ('evaluate', samples, samples, '--resize=pytorch_fid'): ['--resize: '],
        ('evaluate', samples, tmp_path / 'none.npz', weights): ['none.npz: '],
        ('evaluate', samples, tmp_path / 'empty.npz', weights): ['empty.npz: ', 'arrays x;'],
        ('evaluate', samples, samples, f'--inception={samples}'): ['samples.npz: '],
        ('evaluate', narrow, wide): ['narrow.npy: ', 'has 3 ', 'has 4 '],
        ('evaluate', narrow, samples, weights): ['narrow.npy: ', 'has 3 ', 'has 2048 '],
        ('evaluate', samples, reference, weights, '--size=0x3'): ['--size: ', '0x3'],
        ('evaluate', samples, reference, weights, '--bootstrap=1'): ['--bootstrap: '],
        ('evaluate', samples, samples, weights, '--size=8'): ['--size: '],
        ('evaluate', samples, reference, weights, f'--out={tmp_path}'): [f'{tmp_path}: is a folder'],
        ('evaluate', wide, wide, weights): ['--inception: '],
        ('evaluate', samples, tmp_path / 'large.npz'): ['large.npz: ', '33×32×3', '--inception'],
        ('evaluate', samples, tmp_path / 'few.npz'): ['few.npz: has 3 ', '4'],
        ('evaluate', samples, wide): ['wide.npy: ', '4 per image', '--inception'],
        ('evaluate', samples, tmp_path / 'statistics.npz'): ['statistics.npz: ', '2048 per image'],
        ('evaluate', samples, samples, '--batch-size=0'): ['--batch-size: ', '0'],
        ('evaluate', samples, samples, '--bootstrap=10001'): ['--bootstrap: ', '10001'],
        ('evaluate', samples, reference, '--size=8193'): ['--size: ', '8193'],
        ('evaluate', samples, reference, '--same-classes'): ['--same-classes: '],
        ('evaluate', reference, samples, '--same-classes'): ['--same-classes: '],
        ('evaluate', tmp_path / 'run', samples): [f'{tmp_path / "run"}: ', 'stage sample'],
        ('evaluate', tmp_path / 'full', samples): [f'{tmp_path / "full"}: ', 'full/samples'],
        ('make-reference', samples, out): ['--inception'],
        ('make-reference', samples, out, weights, '--split=test'): ['--split: ', '--config'],
        ('make-reference', samples, '--out=x.npy', weights): ['--out: ', 'x.npy', '.npz'],
        ('make-reference', out, weights): ['IMAGES', '--config'],
        ('make-reference', samples, out, weights, '--config.seed=1'): ['--config.seed=1'],
        ('make-reference', out, '--config=digits', weights, '--size=8'): ['--size: ', '--config'],
    }
    for argv, expected in cases.items():
        code, printed = run(*argv, f'--workdir={tmp_path / "work"}')
        assert code == 2 and printed.startswith('error: ') and printed.count('\n') == 1, printed
        assert all(text in printed for text in expected), printed

"""What older versions wrote (tests/versions) is read, continued and sampled from as the files of this one."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.stored_networks import default_average, describe_stored, load_stored
from tests.versions import VERSIONS

NETWORKS = {'diffusion': UNetConfig, 'classifier': ClassifierConfig}


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request):
    return request.param


@pytest.fixture
def workdir(version, tmp_path):
    """A copy of the run, which tests may change."""
    return shutil.copytree(version / 'run', tmp_path / 'run')


def run(version, workdir, *flags):
    return main.main(['main', f'--config={version / "config.py"}', f'--workdir={workdir}', *flags])


def state(workdir):
    """Content and time of change of every file but the lock."""
    files = [path for path in workdir.rglob('*') if path.is_file() and path.name != '.lock']
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def samples(directory):
    (shard,) = (directory / 'shards').iterdir()
    with np.load(shard) as file:
        return file['arr_0'], file['arr_1']


def assert_same_samples(directory, version):
    (images, labels), (stored, stored_labels) = samples(directory), samples(version / 'run' / 'samples')
    np.testing.assert_array_equal(labels, stored_labels)
    assert images.dtype == stored.dtype == np.uint8
    np.testing.assert_allclose(images.astype(int), stored.astype(int), rtol=0, atol=1)


def test_every_stage_is_complete(version, workdir):
    before = state(workdir)
    assert run(version, workdir) == 0
    assert state(workdir) == before


@pytest.mark.slow
def test_training_continues(version, workdir):
    """With the losses that the version itself computed in two more steps."""
    steps = [f'--config.{stage}.num_steps=6' for stage in ('train', 'train_classifier')]
    assert run(version, workdir, '--stage=train,train_classifier', *steps) == 0
    for name, losses in json.loads((version / 'losses.json').read_text()).items():
        lines = (workdir / name / 'metrics.jsonl').read_text().splitlines()
        logged = {line['step']: line.get('loss') for line in map(json.loads, lines)}
        assert list(logged) == [1, 2, 3, 4, 5, 6]
        assert [logged[int(step)] for step in losses] == pytest.approx(list(losses.values()), rel=1e-4)
        assert (workdir / name / 'checkpoints' / '6').is_dir()


def test_sampling_again_gives_the_same_images(version, workdir):
    before = state(workdir)
    assert run(version, workdir, '--stage=sample', '--config.sample.name=again') == 0
    assert_same_samples(workdir / 'samples' / 'again', version)
    assert before.items() <= state(workdir).items()


def test_the_likelihood_is_the_same(version, workdir):
    shutil.rmtree(workdir / 'likelihood')
    assert run(version, workdir, '--stage=likelihood') == 0
    bounds = (
        json.loads((each / 'likelihood' / 'likelihood.json').read_text())['bits_per_dimension']
        for each in (workdir, version / 'run')
    )
    assert next(bounds) == pytest.approx(next(bounds), rel=1e-4)


@pytest.mark.parametrize('name', NETWORKS)
def test_weights_are_those_of_the_run(version, name):
    path, folder = version / f'{name}.safetensors', version / 'run' / name
    stored, trained = describe_stored(path), describe_stored(folder)
    assert type(stored.network) is NETWORKS[name]
    assert (stored.network, stored.process, stored.classes) == (
        trained.network,
        trained.process,
        trained.classes,
    )
    ours, _ = load_stored(path, stored.network)
    theirs, _ = load_stored(folder, stored.network, ema_rate=default_average(folder))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_weights_give_the_same_images(version, tmp_path):
    weights = [f'--config.pretrained.{name}={version / name}.safetensors' for name in NETWORKS]
    assert run(version, tmp_path, '--stage=sample', *weights) == 0
    assert_same_samples(tmp_path / 'samples', version)


@pytest.mark.slow
def test_weights_can_be_trained_on(version, tmp_path):
    weights = f'--config.pretrained.diffusion={version / "diffusion.safetensors"}'
    assert run(version, tmp_path, '--stage=train', weights, '--config.train.num_steps=1') == 0
    assert (tmp_path / 'diffusion' / 'checkpoints' / '1').is_dir()

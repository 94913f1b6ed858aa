"""What a step needs: the exact arguments, the rest close to XLA's analysis for CPUs."""

import dataclasses
import functools
import threading

import jax
import pytest

from diffusion_jax import models
from diffusion_jax.data.config import DataConfig
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.planning.needs import Job, _with_progress, compiled, estimated
from diffusion_jax.planning.topology import read_topology
from diffusion_jax.sharding import MeshConfig
from tests.tiny import CLASSIFIER, DIFFUSION, SAMPLE, TRAIN, UNET

DATA = DataConfig(name='digits', num_classes=10, image_size=(8, 8), image_channels=1)
EXPERIMENT = Experiment(
    stages=('train', 'train_classifier', 'sample'),
    data=DATA,
    diffusion=DIFFUSION,
    unet=UNET,
    train=TRAIN,
    classifier=CLASSIFIER,
    train_classifier=TRAIN,
    sample=dataclasses.replace(SAMPLE, batch_size=16),
)
IMAGE = 8 * 8


def job(stage, topology='local', fsdp=1, **changes):
    experiment = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(fsdp=fsdp))
    return Job(experiment, stage, read_topology(topology)).changed(**changes)


@functools.cache
def both(stage, fsdp=1):
    """The estimate and XLA's analysis of one job."""
    wanted = job(stage, fsdp=fsdp)
    return estimated(wanted), compiled(wanted)


def num_params(*networks):
    return sum(leaf.size for network in networks for leaf in jax.tree.leaves(models.param_shapes(network)))


@pytest.mark.parametrize(
    ('stage', 'network'),
    [('train', UNET), pytest.param('train_classifier', CLASSIFIER, marks=pytest.mark.slow)],
)
def test_the_arguments_of_training(stage, network):
    """Parameters, averages and two moments, two images with labels; a weight for each timestep, counters."""
    expected = 4 * num_params(network) * (1 + len(TRAIN.ema_rates) + 2) + 2 * (IMAGE + 4)
    for needs in both(stage):
        assert 0 <= needs.arguments - expected <= 4 * DIFFUSION.num_timesteps + 32


def test_the_arguments_of_sampling():
    """Parameters of both networks; two images in float32 with index and label; seed, position and numbers."""
    expected = 4 * num_params(UNET, CLASSIFIER) + 2 * (4 * IMAGE + 4 + 4)
    for needs in both('sample'):
        assert needs.arguments == pytest.approx(expected, abs=64)


@pytest.mark.parametrize('stage', ['train', 'sample'])
def test_with_fsdp_a_device_holds_a_part_and_gathers(stage):
    (full, _), (split, found) = both(stage), both(stage, fsdp=8)
    assert split.arguments < 0.2 * full.arguments
    assert split.temporaries > full.temporaries
    assert found.arguments == pytest.approx(split.arguments, abs=16)  # unused ones are left out
    assert found.exchanged['all-gather'] > 3 * num_params(UNET)
    assert found.fits is None  # a CPU's memory is not known


def test_data_parallel_training_sums_gradients():
    assert both('train')[1].exchanged.keys() == {'all-reduce'}
    assert both('sample')[1].exchanged == {}


@pytest.mark.parametrize('stage', ['train', 'train_classifier', 'sample'])
def test_estimates_are_close_to_those_of_xla(stage):
    """XLA for CPUs fuses differently."""
    ours, theirs = both(stage)
    assert 0.3 < ours.temporaries / theirs.temporaries < 2
    assert 0.3 < ours.moved / theirs.moved < 2


def test_the_parts_of_a_batch_count_each():
    """XLA counts the body of their loop once."""
    _, single = both('train')
    parts = compiled(job('train', train={'microbatches': 2}))
    assert parts.flops == single.flops
    assert 0.8 < parts.moved / single.moved < 1.6


def test_what_does_not_fit(monkeypatch):
    def refuse(lowered):
        raise RuntimeError('RESOURCE_EXHAUSTED: Ran out of memory. Used 20.50G of 15.75G hbm.')

    monkeypatch.setattr(jax.stages.Lowered, 'compile', refuse)
    found = compiled(job('train'))
    assert not found.fits
    assert found.peak == 20.5 * 2**30


@pytest.mark.parametrize(
    ('stage', 'changes', 'words'),
    [
        ('train', {'train': {'batch_size': 12}}, ['train.batch_size', '12', '8']),
        ('train', {'train': {'microbatches': 4}}, ['train.microbatches', '4', '8']),
        ('sample', {'sample': {'batch_size': 4}}, ['sample.batch_size', '4', '8']),
        ('train', {'mesh': {'fsdp': 3}}, ['mesh', 'fsdp=3', '8']),
    ],
)
def test_what_cannot_be_split(stage, changes, words):
    for topology in ('local', 'h100:8'):
        with pytest.raises(UserError) as error:
            job(stage, topology, **changes).check()
        assert all(word in str(error.value) for word in words)


def test_each_host_samples_with_its_own_devices():
    topology = read_topology('h100:8')._replace(hosts=2)
    assert Job(EXPERIMENT, 'sample', topology).mesh_shape == (4, 1)
    assert Job(EXPERIMENT, 'train', topology).mesh_shape == (8, 1)
    split = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(fsdp=8))
    assert Job(split, 'sample', topology).mesh_shape == (1, 4)


def test_a_message_while_it_compiles(caplog):
    stop = threading.Event()
    with caplog.at_level('INFO'):
        assert _with_progress(lambda: stop.wait(0.1), 'train: compiling', minute=0.01) is False
    assert 'train: compiling, 2 minutes so far' in caplog.text

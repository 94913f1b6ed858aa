import importlib.util
import subprocess
import sys

import jax
import pytest

from diffusion_jax.chips import CHIPS, chip_of
from diffusion_jax.errors import UserError
from diffusion_jax.planning.topology import read_topology


def test_gpus_are_described_by_their_data_sheet():
    topology = read_topology('h100:8')
    assert (topology.count, topology.memory, topology.devices) == (8, 80e9, ())
    assert read_topology('l4').count == 1
    assert read_topology('v4:2x2x1').count == 4


def test_local_devices():
    topology = read_topology('local')
    assert topology.devices == tuple(jax.devices())
    assert (topology.chip, topology.memory) == (None, None)


@pytest.mark.parametrize('name', ['h1000', '', 'v5e2x4', 'cpu', 'v9:2x2'])
def test_an_unknown_chip(name):
    with pytest.raises(UserError, match='--topology.*v5e:2x4') as error:
        read_topology(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    'name', ['h100:', 'h100:x', 'h100:0', 'h100:-1', 'h100:2x2', 'v5e:8', 'v5e:2x', 'v5e:1x1x1x1']
)
def test_an_invalid_size(name):
    with pytest.raises(UserError) as error:
        read_topology(name)
    assert error.value.where == '--topology'
    assert repr(name) in error.value.problem and name.partition(':')[0] in error.value.remedy


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='libtpu') as error:
        read_topology('v5e:2x4')
    assert (error.value.where, error.value.remedy) == ('--topology', "pip install 'diffusion_jax[plan]'")


def test_the_rates_of_products():
    tpu, gpu = CHIPS['v5e'], CHIPS['h100']
    assert tpu.least_seconds({'bfloat16': 197e12, 'float32 highest': 197e12, 'float32 high': 197e12}) == 10
    assert gpu.least_seconds({'bfloat16': 989e12, 'float32 highest': 67e12, 'float32 high': 495e12}) == 3


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('TPU v5 lite', 'v5e'),
        ('TPU v5', 'v5p'),
        ('NVIDIA H100 80GB HBM3', 'h100'),
        ('NVIDIA A100-SXM4-40GB', 'a100-40'),
        ('NVIDIA L4', 'l4'),
        ('Tesla T4', 't4'),
        ('NVIDIA L40S', None),
        ('NVIDIA H100 PCIe', 'h100-pcie'),
        ('cpu', None),
    ],
)
def test_the_chip_of_a_device(kind, name):
    assert chip_of(kind) == CHIPS.get(name)


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="libtpu is not installed: pip install '.[plan]'"
)


@needs_libtpu
@pytest.mark.parametrize(
    ('name', 'count', 'hosts'), [('v5e', 1, 1), ('v5e:2x4', 8, 1), ('v5e:4x4', 16, 4), ('v5p:2x2x2', 8, 2)]
)
def test_tpus_are_described_by_libtpu(name, count, hosts):
    topology = read_topology(name)
    assert (topology.count, len(topology.devices), topology.hosts) == (count, count, hosts)


@needs_libtpu
def test_an_arrangement_that_libtpu_does_not_have():
    with pytest.raises(UserError, match="--topology: libtpu does not know 'v5e:3x5'"):
        read_topology('v5e:3x5')


@needs_libtpu
def test_two_processes_plan_at_the_same_time():
    read_topology('v5e')
    code = "from diffusion_jax.planning.topology import read_topology; read_topology('v5e')"
    subprocess.run([sys.executable, '-c', code], check=True)

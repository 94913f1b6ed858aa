"""The devices that a plan is for: local ones, TPUs that libtpu describes, or a number of GPUs."""

import importlib.util
import itertools
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from diffusion_jax.checks import one_of
from diffusion_jax.chips import CHIPS, Chip, chip_of
from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, reason

LOCAL = 'local'
# Without the first, libtpu asks a server what machine this is; without the second, it refuses a second
# process, such as a plan beside a training; without the others it prints warnings.
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


class Topology(NamedTuple):
    """Devices of one kind.

    Attributes:
        chip: None for unknown devices, such as CPUs.
        memory: bytes of each device that programs can use; None if unknown.
        devices: what programs are compiled for; () where they cannot be.
        hosts: the number of machines; each draws its own samples.
    """

    name: str
    chip: Chip | None
    memory: float | None
    count: int  # type: ignore[assignment]  # a field, not the method of tuples
    devices: tuple[jax.Device, ...] = ()
    hosts: int = 1


def read_topology(name: str) -> Topology:
    """The topology of a name: 'local', 'v5e:2x4', 'v5e' (one chip), 'h100' or 'h100:8'.

    Raises UserError if there is no such chip or arrangement, or libtpu is not installed.
    """
    if name == LOCAL:
        devices = tuple(all_devices())
        chip = chip_of(devices[0].device_kind)
        limit = (devices[0].memory_stats() or {}).get('bytes_limit')
        memory = limit or (chip.memory if chip else None)
        return Topology(LOCAL, chip, memory, len(devices), devices, jax.process_count())
    kind, colon, size = name.partition(':')
    if kind not in CHIPS:
        one_of('--topology', name, (LOCAL, *CHIPS, 'v5e:2x4', 'h100:8'))
    chip = CHIPS[kind]
    if colon and not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}' if chip.is_tpu else r'[1-9]\d*', size):
        several = f'{kind}:2x4' if chip.is_tpu else f'{kind}:8'
        raise UserError('--topology', f'got {name!r}', f'give {kind} for one device, or {several} for eight')
    axes = tuple(int(axis) for axis in size.split('x')) if size else ()
    jax.config.update('jax_platforms', 'cpu')  # this machine's devices are others, and would change the plan
    if not chip.host:
        return Topology(name, chip, chip.memory, math.prod(axes))
    devices = _described(name, chip, axes or (1,) * len(chip.host))
    hosts = len({device.process_index for device in devices})
    return Topology(name, chip, chip.memory, len(devices), devices, hosts)


def _described(name: str, chip: Chip, axes: tuple[int, ...]) -> tuple[jax.Device, ...]:
    """TPUs as libtpu describes them; it does not access the network."""
    if importlib.util.find_spec('libtpu') is None:
        problem = f'{name!r} needs libtpu, which is not installed'
        raise UserError('--topology', problem, "pip install 'diffusion_jax[plan]'")
    jax.config.update('jax_enable_compilation_cache', False)  # without a TPU programs cannot be read back
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    kind, shape = name.partition(':')[0], 'x'.join(map(str, axes))
    one_host = all(size <= most for size, most in itertools.zip_longest(axes, chip.host, fillvalue=1))
    options = {'chips_per_host_bounds': [*axes, 1][:3]} if one_host else {}
    try:
        return tuple(topologies.get_topology_desc(f'{kind}:{shape}', platform='tpu', **options).devices)
    except Exception as error:  # libtpu's, of several classes
        largest = 'x'.join(map(str, chip.host[: len(axes)]))
        problem = f'libtpu does not know {name!r} ({reason(error)})'
        raise UserError('--topology', problem, f'use an arrangement such as {kind}:{largest}') from error

"""The devices that a plan is for, by name: local ones, TPUs that are only described, or numbers of GPUs."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from diffusion_jax.checks import one_of
from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, reason
from diffusion_jax.planning.chips import CHIPS, Chip

LOCAL = 'local'


class Topology(NamedTuple):
    """Devices of one kind.

    Attributes:
        chip: None where nothing is known about the device, as about a CPU.
        memory: bytes of each device that programs can use; None if unknown.
        count: the number of devices.
        devices: what programs are compiled for; () where they cannot be.
        hosts: on how many machines the devices are; each draws its own samples.
    """

    name: str
    chip: Chip | None
    memory: float | None
    count: int
    devices: tuple[jax.Device, ...] = ()
    hosts: int = 1

    def one_host(self) -> Topology:
        """The devices of one machine."""
        own = tuple(device for device in self.devices if device.process_index == 0)
        return self._replace(count=self.count // self.hosts, devices=own, hosts=1)


def read_topology(name: str) -> Topology:
    """The topology that a text names: 'local', 'v5e:2x4', 'v5e' (one chip), 'h100' or 'h100:8'.

    Raises:
        UserError: there is no such chip or arrangement, or libtpu is not installed.
    """
    if name == LOCAL:
        return _local()
    known, colon, size = name.partition(':')
    if known not in CHIPS:
        one_of('--topology', name, (LOCAL, *CHIPS, 'v5e:2x4', 'h100:8'))
    tpu = known.startswith('v')
    if colon and not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}' if tpu else r'[1-9]\d*', size):
        raise UserError(
            f'--topology is {name!r}; give {known}, or {known}:{"2x4" if tpu else "8"} for several'
        )
    chip = CHIPS[known]
    axes = tuple(int(axis) for axis in size.split('x')) if size else ()
    if chip.host:
        return _described(name, chip, axes or (1,) * (2 if chip.host[2:] == (1,) else 3))
    return Topology(name, chip, chip.memory, math.prod(axes))


def _local() -> Topology:
    devices = tuple(all_devices())
    kind = devices[0].device_kind
    chip = max(
        (chip for chip in CHIPS.values() if chip.kind in kind), key=lambda chip: len(chip.kind), default=None
    )
    limit = (devices[0].memory_stats() or {}).get('bytes_limit')
    memory = limit or (chip.memory if chip else None)
    return Topology(LOCAL, chip, memory, len(devices), devices, jax.process_count())


def _described(name: str, chip: Chip, axes: tuple[int, ...]) -> Topology:
    """TPUs as libtpu describes them; nothing is asked of the network."""
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={name}: programs are compiled for it by libtpu, which is not installed; pip install '
            "'diffusion_jax[plan]'"
        )
    jax.config.update('jax_platforms', 'cpu')  # a TPU of this machine would be another one
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault(
        'TPU_ACCELERATOR_TYPE', 'v5litepod-8'
    )  # any will do, but without there are warnings
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    known = name.partition(':')[0]
    padded = (*axes, 1, 1)[:3]
    small = all(size <= most for size, most in zip(padded, chip.host, strict=True))
    options = {'chips_per_host_bounds': list(padded)} if small else {}
    try:
        described = topologies.get_topology_desc(
            f'{known}:{"x".join(map(str, axes))}', platform='tpu', **options
        )
    except Exception as error:  # libtpu's, of several classes
        raise UserError(
            f'--topology is {name!r}; libtpu has no such arrangement ({reason(error)}); give one such as '
            f'{known}:{"2x2" if len(axes) == 2 else "2x2x1"}'
        ) from error
    devices = tuple(described.devices)
    hosts = len({device.process_index for device in devices})
    return Topology(name, chip, chip.memory, len(devices), devices, hosts)

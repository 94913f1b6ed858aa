"""A plan as text."""

import math
from collections.abc import Iterator
from typing import Any

from diffusion_jax.generation.options import check_respacing
from diffusion_jax.planning.candidates import candidates, least_seconds
from diffusion_jax.planning.needs import TRAINED, Job, Needs
from diffusion_jax.planning.topology import Topology

# The median time of a step over its bound, of the sampling and training steps of imagenet64 and imagenet256
# on an H100: the least (53.5 / 23.8 ms) and the most (136.3 / 50.8 ms). See docs/plan.md.
SLOWDOWNS = (53.5 / 23.8, 136.3 / 50.8)


def header(topology: Topology) -> str:
    """The devices, and their data sheet."""
    chip = topology.chip
    if chip is None:
        kind = topology.devices[0].device_kind
        return f'{topology.count} × {kind}; its speed is unknown, so no times are given'
    rates = [three_digits(rate / 1e12) for rate in (chip.bfloat16, chip.highest)]
    speed = f'{_bytes(chip.bandwidth)}/s, {rates[0]} TFLOP/s in bfloat16, {rates[1]} in float32'
    return f'{topology.count} × {chip.kind}, each with {_bytes(chip.memory)}, {speed}'


def describe(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    """The lines on one stage."""
    devices, is_training = job.num_devices, job.stage in TRAINED
    how = 'by arithmetic, not compiled' if needs.seconds is None else f'compiled in {needs.seconds:.0f} s'
    parts = f' in {job.microbatches} parts' if job.microbatches > 1 else ''
    each = f', {job.config.batch_size // devices} on each device' if devices > 1 else ''
    yield f'\n{job.stage}: a step on {job.config.batch_size} images{each}{parts}; {how}'
    arguments = 'parameters, averages, moments, a batch' if is_training else 'parameters, a batch'
    yield _line('arguments', _bytes(needs.arguments), arguments)
    yield _line('temporaries', _bytes(needs.temporaries), 'estimated' if needs.seconds is None else '')
    memory, fit = job.topology.memory, "the device's memory is unknown"
    if memory is not None:
        share = f'{100 * needs.peak / memory:.0f} % of {_bytes(memory)}'
        fit = f'{share}: {"fits" if needs.fits else "does not fit"}'
    yield _line('peak', _bytes(needs.peak), fit)
    images = job.config.batch_size / devices
    flops = _scaled(sum(needs.flops.values()) / images, 1e12, 'T', 1e9, 'G')
    yield _line('FLOPs', flops, 'an image, of convolutions and products')
    yield _line('traffic', _bytes(needs.moved / images), 'an image, from and to memory')
    for kind, size in sorted((needs.exchanged or {}).items()):
        yield _line('exchanged', _bytes(size), f'{kind}, {"counted for one part" if parts else "in a step"}')
    yield from _times(job, needs, num_samples)
    yield from _proposals(job, needs)


def _times(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    least, chip = least_seconds(job, needs), job.topology.chip
    if least is None or chip is None:
        return
    by = 'FLOPs' if chip.least_seconds(needs.flops) == least else 'memory traffic'
    rate = f'{three_digits(job.config.batch_size / least)} images/s'
    yield _line('bound', _time(least), f'a step at least, by {by}: at most {rate}')
    low, high = (slowdown * least for slowdown in SLOWDOWNS)
    expected = f'{_time(low)} to {_time(high)} a step'
    if num_samples:
        if job.stage in TRAINED:
            steps, what = job.config.num_steps, f'{job.config.num_steps:,} steps'
        else:
            grid = check_respacing(job.experiment.diffusion, job.config.respacing, job.config.timesteps)
            steps, what = grid.level.t.size, f'{num_samples:,} images, each in {grid.level.t.size} steps'
            steps *= math.ceil(num_samples / job.config.batch_size / job.topology.hosts)
        yield _line('in all', _time(steps * least), f'at least, for {what}')
        expected += f', {_time(steps * low)} to {_time(steps * high)} in all'
    if not chip.is_tpu:  # no TPU was measured
        factors = '{:.2g} to {:.2g}'.format(*SLOWDOWNS)
        yield _line('expected', factors, f'times the bound, as on an H100: {expected}')


def _proposals(job: Job, needs: Needs) -> Iterator[str]:
    found = candidates(job, needs)
    if found:
        yield '  these settings fit, by estimate:' if not needs.fits else '  faster, and fits, by estimate:'
    elif needs.fits is False:
        yield '  no other batch, microbatches, remat or fsdp makes it fit'
    for other, needs in found:
        sections = (other.changes or {}).items()
        settings = [
            f'--config.{name}.{key}={value}' for name, each in sections for key, value in each.items()
        ]
        yield f'    {" ".join(settings)}'
        least = least_seconds(other, needs)
        rate = f', at most {three_digits(other.config.batch_size / least)} images/s' if least else ''
        yield f'      peak {_bytes(needs.peak)}{rate}'


def _line(name: str, value: str, remark: str) -> str:
    return f'  {name:<12}{value:>10}  {remark}'.rstrip()


def _bytes(size: float) -> str:
    return _scaled(size, 1e9, 'GB', 1e6, 'MB')


def _time(seconds: float) -> str:
    return _scaled(seconds, 3600, 'h', 1, 's', 1e-3, 'ms')


def _scaled(value: float, *units: Any) -> str:
    """In the largest of the units that it reaches, or in the last: each a size and a name."""
    sizes = list(zip(units[::2], units[1::2], strict=True))
    size, name = next((unit for unit in sizes if value >= unit[0]), sizes[-1])
    return f'{three_digits(value / size)} {name}'


def three_digits(value: float) -> str:
    """A number with three digits, or with all before its point."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'

"""A plan as text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diffusion_jax.planning.candidates import candidates
from diffusion_jax.planning.jobs import TRAINED, Job
from diffusion_jax.planning.measured import slowdowns
from diffusion_jax.planning.needs import Needs
from diffusion_jax.planning.topology import Topology

TRAINING, SAMPLING = 'parameters, averages, moments, a batch', 'parameters, a batch'


def header(topology: Topology) -> str:
    """The devices, and what their data sheet says."""
    chip = topology.chip
    if chip is None:
        kind = topology.devices[0].device_kind
        return f'{topology.count} × {kind}; its speed is unknown, so no times are given'
    tflops = (three_digits(rate / 1e12) for rate in (chip.bfloat16, chip.highest))
    rates = '{} TFLOP/s in bfloat16, {} in float32'.format(*tflops)
    speed = f'{_bytes(chip.bandwidth)}/s, {rates}'
    return f'{topology.count} × {chip.kind}, each with {_bytes(chip.memory)}, {speed}'


def least_seconds(job: Job, needs: Needs) -> float | None:
    """The roofline's bound on a step: all products at the chip's peak, or all bytes at its bandwidth."""
    chip = job.topology.chip
    return chip and max(chip.least_seconds(needs.flops), needs.moved / chip.bandwidth)


def describe(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    """The lines on one stage."""
    batch, devices = job.config.batch_size, job.num_devices
    how = 'by arithmetic, not compiled' if needs.seconds is None else f'compiled in {needs.seconds:.0f} s'
    parts = f' in {job.microbatches} parts' if job.microbatches > 1 else ''
    each = f', {batch // devices} on each device' if devices > 1 else ''
    yield f'\n{job.stage}: a step on {batch} images{each}{parts}; {how}'
    yield _line('arguments', _bytes(needs.arguments), TRAINING if job.stage in TRAINED else SAMPLING)
    yield _line('temporaries', _bytes(needs.temporaries), 'estimated' if needs.seconds is None else '')
    yield _line('peak', _bytes(needs.peak), _fit(job, needs))
    images = batch / devices
    yield _line('FLOPs', _count(sum(needs.flops.values()) / images), 'an image, of convolutions and products')
    yield _line('traffic', _bytes(needs.moved / images), 'an image, from and to memory')
    for kind, size in sorted((needs.exchanged or {}).items()):
        yield _line('exchanged', _bytes(size), f'{kind}, {"counted for one part" if parts else "in a step"}')
    yield from _times(job, needs, num_samples)
    yield from _proposals(job, needs)


def _times(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    least, chip = least_seconds(job, needs), job.topology.chip
    if least is None:
        return
    by = 'FLOPs' if chip.least_seconds(needs.flops) == least else 'memory traffic'
    rate = f'{three_digits(job.config.batch_size / least)} images/s'
    yield _line('bound', _time(least), f'a step at least, by {by}: at most {rate}')
    whole = _runs(job, num_samples) * least
    if num_samples:
        what = f'{num_samples:,} images, each in {job.num_steps} steps'
        what = f'{job.num_steps:,} steps' if job.stage in TRAINED else what
        yield _line('in all', _time(whole), f'at least, for {what}')
    if not chip.is_tpu:  # no TPU was measured
        low, high = slowdowns()
        times = f'{_time(low * least)} to {_time(high * least)} a step'
        times += f', {_time(low * whole)} to {_time(high * whole)} in all' if num_samples else ''
        yield _line('expected', f'{low:.2g} to {high:.2g}', f'times the bound, as on an H100: {times}')


def _runs(job: Job, num_samples: int) -> int:
    """The number of steps of the whole training, or of all batches of samples that one host draws."""
    if job.stage in TRAINED:
        return job.num_steps
    return job.num_steps * math.ceil(num_samples / job.config.batch_size / job.topology.hosts)


def _proposals(job: Job, needs: Needs) -> Iterator[str]:
    found = candidates(job, needs, lambda other: least_seconds(job, other) or sum(other.flops.values()))
    if found:
        yield '  these settings fit, by estimate:' if not needs.fits else '  faster, and fits, by estimate:'
    elif needs.fits is False:
        yield '  no other batch, microbatches, remat or fsdp makes it fit'
    for each in found:
        yield '    ' + ' '.join(f'--config.{name}={value}' for name, value in each.settings.items())
        least, rate = least_seconds(each.job, each.needs), ''
        if least:
            rate = f', at most {three_digits(each.job.config.batch_size / least)} images/s'
        yield f'      peak {_bytes(each.needs.peak)}{rate}'


def _fit(job: Job, needs: Needs) -> str:
    if needs.fits is None:
        return "the device's memory is unknown"
    part = f'{100 * needs.peak / job.topology.memory:.0f} % of {_bytes(job.topology.memory)}'
    return f'{part}: {"fits" if needs.fits else "does not fit"}'


def _line(name: str, value: str, remark: str) -> str:
    return f'  {name:<12}{value:>10}  {remark}'.rstrip()


def _bytes(size: float) -> str:
    return f'{three_digits(size / 1e9)} GB' if size >= 1e9 else f'{three_digits(size / 1e6)} MB'


def _count(flops: float) -> str:
    return f'{three_digits(flops / 1e12)} T' if flops >= 1e12 else f'{three_digits(flops / 1e9)} G'


def _time(seconds: float) -> str:
    if seconds < 1:
        return f'{three_digits(1000 * seconds)} ms'
    return f'{three_digits(seconds)} s' if seconds < 3600 else f'{three_digits(seconds / 3600)} h'


def three_digits(value: float) -> str:
    """A number with three digits, or with all before its point."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'

"""A plan as text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from diffusion_jax.planning.candidates import Candidate, candidates
from diffusion_jax.planning.chips import measured_slowdown
from diffusion_jax.planning.jobs import TRAINED, Job
from diffusion_jax.planning.needs import Needs
from diffusion_jax.planning.topology import Topology

CONTENTS = {'train': 'parameters, averages, moments, a batch', 'sample': 'parameters, a batch'}


def header(topology: Topology) -> str:
    """The devices, and what their data sheet says."""
    chip = topology.chip
    devices = f'{topology.count} × {chip.name if chip else topology.devices[0].device_kind}'
    if chip is None:
        return f'{devices}: neither memory nor speed is known, so that nothing is said of time'
    rates = f'{chip.bfloat16 / 1e12:.3g} TFLOP/s in bfloat16, {chip.float32 / 1e12:.3g} in float32'
    return f'{devices}, each with {_bytes(chip.memory)}, {_bytes(chip.bandwidth)}/s, {rates}'


def least_seconds(job: Job, needs: Needs) -> float | None:
    """The roofline's bound on a step: the products at the chip's peak, or all bytes at its bandwidth."""
    chip = job.topology.chip
    return chip and max(chip.seconds_of(needs.flops), needs.moved / chip.bandwidth)


def describe(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    """The lines on one stage."""
    batch, devices = job.config.batch_size, job.num_devices
    how = 'by arithmetic, not compiled' if needs.seconds is None else f'compiled in {needs.seconds:.0f} s'
    parts = f' in {job.microbatches} parts' if job.microbatches > 1 else ''
    each = f', {batch // devices} on each device' if devices > 1 else ''
    yield f'\n{job.stage}: a step on {batch} images{each}{parts}; {how}'
    yield _line('arguments', _bytes(needs.arguments), CONTENTS.get(job.stage, CONTENTS['train']))
    yield _line('temporaries', _bytes(needs.temporaries), '' if needs.seconds else 'estimated')
    yield _line('peak', _bytes(needs.peak), _fit(job, needs))
    images = batch / devices
    yield _line(
        'FLOPs',
        f'{_count(sum(needs.flops.values()) / images)}',
        'an image, of convolutions and matrix products',
    )
    yield _line('traffic', _bytes(needs.moved / images), 'an image, from and to memory')
    for kind, size in sorted((needs.exchanged or {}).items()):
        yield _line('exchanged', _bytes(size), f'{kind}, in a step')
    yield from _times(job, needs, num_samples)
    yield from _proposals(job, needs)


def _times(job: Job, needs: Needs, num_samples: int) -> Iterator[str]:
    least = least_seconds(job, needs)
    if not least:
        return
    chip, batch = job.topology.chip, job.config.batch_size
    cause = 'FLOPs' if chip.seconds_of(needs.flops) == least else 'memory traffic'
    yield _line('bound', f'{1000 * least:.3g} ms', f'a step at least, by {cause}: {_rate(batch / least)}')
    low, high = measured_slowdown()
    arithmetic = not chip.host
    if arithmetic:
        yield _line('expected', f'{1000 * low * least:.3g} ms', f'to {1000 * high * least:.3g} ms')
    steps, what = job.num_steps, f'{job.num_steps:,} steps of training'
    if job.stage not in TRAINED:
        steps *= math.ceil(num_samples / batch / job.topology.hosts)
        what = f'{num_samples:,} images in {job.num_steps} steps each'
    if num_samples:
        hours = steps * least / 3600
        likely = f'; expected {_hours(low * hours)} to {_hours(high * hours)}' if arithmetic else ''
        yield _line('in all', _hours(hours), f'at least, for {what}{likely}')


def _proposals(job: Job, needs: Needs) -> Iterator[str]:
    if not job.topology.chip:
        return
    found = candidates(job, needs, lambda other: least_seconds(job, other))
    if found:
        yield '  fits with, estimated:' if not needs.fits else '  faster, estimated:'
    elif needs.fits is False:
        yield '  no other batch, microbatches, remat or fsdp makes it fit'
    for candidate in found:
        yield f'    {_flags(candidate)}'
        least = least_seconds(job, candidate.needs)
        rate = candidate.job.config.batch_size / least
        yield f'      peak {_bytes(candidate.needs.peak)}, at most {_rate(rate)}'


def _flags(candidate: Candidate) -> str:
    return ' '.join(f'--config.{name}={value}' for name, value in candidate.settings.items())


def _fit(job: Job, needs: Needs) -> str:
    if needs.fits is None:
        return "the device's memory is unknown"
    part = f'{100 * needs.peak / job.topology.memory:.0f} % of {_bytes(job.topology.memory)}'
    return f'{part}: {"fits" if needs.fits else "does not fit"}'


def _line(name: str, value: str, remark: str) -> str:
    return f'  {name:<12}{value:>10}  {remark}'.rstrip()


def _bytes(size: float) -> str:
    return f'{size / 1e9:.3g} GB' if size >= 1e9 else f'{size / 1e6:.3g} MB'


def _count(flops: float) -> str:
    return f'{flops / 1e12:.3g} T' if flops >= 1e12 else f'{flops / 1e9:.3g} G'


def _rate(images: float) -> str:
    return f'{images:.3g} images/s'


def _hours(hours: float) -> str:
    return f'{hours:,.0f} h' if hours >= 10 else f'{hours:.2g} h'

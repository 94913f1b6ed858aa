"""Other settings: with which a step fits, or makes more of the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from diffusion_jax.planning.jobs import TRAINED, Job
from diffusion_jax.planning.needs import ESTIMATE_FITS, Needs, estimated

MOST = 3
GAIN = 0.95  # a larger batch is proposed if an image then takes less than this part of its time
LARGEST_BATCH = 1024  # images on a device

Seconds = Callable[[Needs], float]


class Candidate(NamedTuple):
    """Settings by their dotted names, the job that has them and its needs, estimated."""

    settings: dict[str, Any]
    job: Job
    needs: Needs


def candidates(job: Job, needs: Needs, seconds: Seconds) -> list[Candidate]:
    """At most three, the fastest first; none where the settings of the job are good or nothing fits.

    Args:
        needs: of the job; what the compiler needed more than the estimate is expected of the others, too.
        seconds: the least time of a step.
    """
    if needs.fits is None:
        return []
    factor = needs.temporaries / max(estimated(job).temporaries, 1)
    search = _trainings if job.stage in TRAINED else _samplings
    found = list(search(job, needs, factor, seconds))
    return sorted(found, key=lambda each: _image(each, seconds))[:MOST]


def _try(job: Job, factor: float, **sections: dict[str, Any]) -> Candidate:
    other = job.changed(**sections)
    settings = {f'{name}.{key}': value for name, values in sections.items() for key, value in values.items()}
    return Candidate(settings, other, estimated(other, factor))


def _trainings(job: Job, needs: Needs, factor: float, seconds: Seconds) -> Iterator[Candidate]:
    """The same batch, in parts, with rematerialisation, or with the state split over the devices."""
    network = TRAINED[job.stage]
    remat = [{}] if job.networks[0].remat else [{}, {network: {'remat': True}}]
    count = job.topology.count
    split = [{}] if count == 1 or job.experiment.mesh.fsdp > 1 else [{}, {'mesh': {'data': 1, 'fsdp': count}}]
    if needs.fits:
        remat, split = [{}], [{}]
        if job.microbatches == 1:
            return
    for more in (mesh | part for mesh in split for part in remat):
        found = _fewest_microbatches(job, factor, more)
        if found and (not needs.fits or found.job.microbatches < job.microbatches):
            yield found


def _fewest_microbatches(job: Job, factor: float, more: dict[str, Any]) -> Candidate | None:
    """The first that fits, with 1, 2, 4, … or as many parts as a device has images."""

    def parted(number: int) -> Candidate:
        section = {job.stage: {'microbatches': number}} if number != job.microbatches else {}
        return _try(job, factor, **section, **more)

    images = job.config.batch_size // job.num_devices
    whole = parted(1)
    for number in (2**power for power in range(20)):
        if images % number:
            return None
        # Parts of a batch never need less than their share; to trace each number would take minutes.
        if whole.needs.temporaries <= number * _room(whole) and (found := parted(number)).needs.fits:
            return found
    return None


def _samplings(job: Job, needs: Needs, factor: float, seconds: Seconds) -> Iterator[Candidate]:
    """The largest batch that fits, or a larger one that gains."""
    images, devices = job.config.batch_size // job.num_devices, job.num_devices

    def sized(number: int, **more: dict[str, Any]) -> Candidate:
        return _try(job, factor, sample={'batch_size': number * devices}, **more)

    split = [{}] if job.mesh_shape[1] > 1 or devices == 1 else [{}, {'mesh': {'data': 1, 'fsdp': devices}}]
    for more in [{}] if needs.fits else split:
        present = sized(images, **more)
        share = max(_room(present), 0) / present.needs.temporaries
        number = int(min(images * share, LARGEST_BATCH))
        while number and not (found := sized(2 ** int(math.log2(number)), **more)).needs.fits:
            number //= 2
        if number and (not needs.fits or _image(found, seconds) < GAIN * _image(present, seconds)):
            yield found


def _room(candidate: Candidate) -> float:
    """Bytes that arguments leave for temporaries."""
    return ESTIMATE_FITS * candidate.job.topology.memory - candidate.needs.arguments


def _image(candidate: Candidate, seconds: Seconds) -> float:
    """Seconds for an image."""
    return seconds(candidate.needs) / candidate.job.config.batch_size

"""Other settings: those with which a step fits, or makes more of the device."""

from typing import Any

from diffusion_jax.planning.needs import ESTIMATE_FITS, TRAINED, Job, Needs, estimated

MOST = 3
GAIN = 0.95  # a larger batch is proposed if an image then takes less than this part of its time
LARGEST_BATCH = 1024  # images on a device


def least_seconds(job: Job, needs: Needs) -> float | None:
    """The roofline's bound on a step: all products at the chip's peak, or all bytes at its bandwidth."""
    chip = job.topology.chip
    return chip and max(chip.least_seconds(needs.flops), needs.moved / chip.bandwidth)


def candidates(job: Job, needs: Needs) -> list[tuple[Job, Needs]]:
    """At most three, the fastest first; none if the settings of the job are good or nothing fits.

    needs: of the job; if compiled, the estimates of others are scaled like its own.
    """
    if needs.fits is None:
        return []
    factor = needs.temporaries / max(estimated(job).temporaries, 1)
    fitting = (_first_that_fits(job, changes, factor) for changes in _changes(job, needs))
    found = [pair for pair in fitting if pair and (not needs.fits or _is_better(job, *pair))]
    return sorted(found, key=lambda pair: _image_seconds(*pair))[:MOST]


def _changes(job: Job, needs: Needs) -> list[dict[str, dict[str, Any]]]:
    """Settings besides the batch: sharding and rematerialization, if the job does not fit."""
    devices = job.num_devices
    meshes: list[dict[str, dict[str, Any]]] = [{}]
    remat: list[dict[str, dict[str, Any]]] = [{}]
    if not needs.fits and devices > 1 and job.mesh_shape[1] == 1:
        meshes.append({'mesh': {'data': job.topology.count // devices, 'fsdp': devices}})
    if not needs.fits and job.stage in TRAINED and not getattr(job.experiment, TRAINED[job.stage]).remat:
        remat.append({TRAINED[job.stage]: {'remat': True}})
    return [mesh | network for mesh in meshes for network in remat]


def _first_that_fits(job: Job, changes: dict[str, dict[str, Any]], factor: float) -> tuple[Job, Needs] | None:
    """With the fewest microbatches; for sampling with the largest batch that is a power of two."""
    key = 'microbatches' if job.stage in TRAINED else 'batch_size'

    def attempt(value: int) -> tuple[Job, Needs]:
        batch = {job.stage: {key: value}} if value != getattr(job.config, key) else {}
        changed = job.changed(**batch, **changes)
        return changed, estimated(changed, factor)

    images, powers = job.config.batch_size // job.num_devices, [2**power for power in range(32)]
    _, needs = attempt(1 if job.stage in TRAINED else job.config.batch_size)
    assert job.topology.memory is not None
    # Parts of a batch never need less than their share; to trace each number would take minutes.
    share = max(ESTIMATE_FITS * job.topology.memory - needs.arguments, 0) / needs.temporaries
    if job.stage in TRAINED:
        values = [number for number in powers if images % number == 0 and share * number >= 1]
    else:
        most = min(images * share, LARGEST_BATCH)
        values = [number * job.num_devices for number in reversed(powers) if number <= most]
    return next((pair for pair in map(attempt, values) if pair[1].fits), None)


def _is_better(job: Job, other: Job, needs: Needs) -> bool:
    if job.stage in TRAINED:
        return other.microbatches < job.microbatches
    return _image_seconds(other, needs) < GAIN * _image_seconds(job, estimated(job))


def _image_seconds(job: Job, needs: Needs) -> float:
    """The least time of an image; its FLOPs, if the speed of the device is unknown."""
    return (least_seconds(job, needs) or sum(needs.flops.values())) / job.config.batch_size

"""Stage `likelihood`: a bound in bits per dimension on real images' likelihood, with all its terms."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.config import HOW_IMAGES_ARE_READ
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources import describe
from diffusion_jax.data.sources.wrappers import is_readable, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import UserError
from diffusion_jax.images import reduce_images
from diffusion_jax.sharding import local_mesh
from diffusion_jax.shards import SHARDS, Rows, fill, found, read
from diffusion_jax.stages import limits
from diffusion_jax.stages.networks import load_network, network_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import make_generator
from diffusion_jax.stages.stamps import check_stamp, results_directory
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.workdir import write_json, write_stamp

logger = logging.getLogger(__name__)

RESULT_FILE = 'likelihood.json'
_OUTSIDE_THE_RESULT = ('num_images', 'batch_size')


def main(run: Run) -> None:
    run = run.on(local_mesh(run.mesh))
    stamp, order = likelihood_stamp(run), _image_order(run)
    directory = _directory(run, stamp)
    check_stamp(directory, stamp)
    judge = _make_judge(run, order)
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
    batch_size = _batch_size(run, len(order))
    hosts = {'host': jax.process_index(), 'num_hosts': jax.process_count()}
    title = f'likelihood, {run.experiment.likelihood.split} split'
    fill(directory / SHARDS, title, len(order), batch_size, judge, run.stop, **hosts)
    if jax.process_index() == 0:
        _finish(run, directory, stamp, len(order))


def complete(run: Run) -> bool:
    """Whether the bound of as many images is there."""
    stamp = likelihood_stamp(run)
    path = _directory(run, stamp) / RESULT_FILE
    check_stamp(path.parent, stamp)
    try:
        result = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # none, or one that is damaged: it is made again
        return False
    return result.get('num_images', 0) + result.get('left_out', 0) == len(_image_order(run))


def likelihood_stamp(run: Run) -> dict[str, Any]:
    """What the bound rests on: the network's parameters, the process, the images and the stage's settings."""
    experiment = run.experiment
    settings = dataclasses.asdict(experiment.likelihood)
    process, data = dataclasses.asdict(experiment.diffusion), dataclasses.asdict(experiment.data)
    return {
        'likelihood': {key: value for key, value in settings.items() if key not in _OUTSIDE_THE_RESULT},
        'ema_rate': experiment.sample.ema_rate,
        'diffusion': network_stamp(run, DIFFUSION),
        'process': {key: value for key, value in process.items() if key != 'loss'},
        'data': {key: value for key, value in data.items() if key not in HOW_IMAGES_ARE_READ},
        'images': describe(run.source(experiment.likelihood.split)),
    }


def _finish(run: Run, directory: Path, stamp: dict[str, Any], num_images: int) -> None:
    """What is made of all shards together."""
    result = mean_terms(directory / SHARDS, num_images)
    timesteps = schedule_of(run.experiment.diffusion, run.experiment.likelihood.respacing).timesteps
    protocol = {'steps': len(timesteps), 'checkpoint_step': stamp['diffusion'].get('step'), **stamp}
    numbers = {name: value for name, value in result.items() if np.ndim(value) == 0}
    write_json(directory / RESULT_FILE, numbers | {'protocol': protocol, 'timesteps': timesteps} | result)
    logger.info('%s:\n%s', directory / RESULT_FILE, summary(result))


def mean_terms(directory: Path, num_images: int) -> dict[str, Any]:
    """Means over the first images of the shards: numbers, and arrays [T] that begin at the first timestep.

    `standard_error` is that of `bits_per_dimension` as a mean over images. Unreadable images, which have a
    negative index in the shards, are in no mean; `left_out` is their number.

    Raises:
        UserError: fewer than two images are left.
    """
    totals, sums = [], dict.fromkeys(('prior', 'vb', 'x_0_mse', 'eps_mse'), 0.0)
    for shard in found(directory):
        # One shard is in memory at a time. There may be more images than asked for, of an earlier run.
        terms = read(shard, 'index', 'total', *sums)
        terms = {name: term[: max(num_images - shard.start, 0)] for name, term in terms.items()}
        terms = {name: term[terms['index'] >= 0] for name, term in terms.items()}
        totals.append(terms['total'])
        sums = {name: sums[name] + terms[name].sum(axis=0, dtype=np.float64) for name in sums}
    total = np.concatenate(totals).astype(np.float64)
    if len(total) < 2:
        raise UserError(f'{directory}: {len(total)} images could be read; the standard error needs two')
    means = {name: value / len(total) for name, value in sums.items()}
    return {
        'num_images': len(total),
        'left_out': num_images - len(total),
        'bits_per_dimension': total.mean(),
        'standard_error': total.std(ddof=1) / np.sqrt(len(total)),
        'prior': means['prior'],
        'decoder': means['vb'][0],
        **means,
    }


def summary(result: dict[str, Any]) -> str:
    """The numbers for people."""
    left_out = f', {result["left_out"]:,} left out' if result['left_out'] else ''
    return (
        f'  {result["bits_per_dimension"]:.3f} ± {result["standard_error"]:.3f} bits per dimension, mean and '
        f'standard error of {result["num_images"]:,} images{left_out}\n'
        f'  of which decoder {result["decoder"]:.3f}, transitions {result["vb"][1:].sum():.3f}, '
        f'prior {result["prior"]:.2g}'
    )


def _directory(run: Run, stamp: dict[str, Any]) -> Path:
    return results_directory(run.workdir / 'likelihood', 'likelihood', stamp)


def _image_order(run: Run) -> np.ndarray:
    """Which images are judged, [N]; a larger number of images begins with those of a smaller one."""
    config = run.experiment.likelihood
    available = len(run.source(config.split))
    return np.random.default_rng(config.seed).permutation(available)[: config.num_images or available]


def _batch_size(run: Run, num_images: int) -> int:
    return min(run.experiment.likelihood.batch_size, -(-num_images // run.mesh.size) * run.mesh.size)


def _make_judge(run: Run, order: np.ndarray) -> Callable[[int, int], Rows]:
    """(start, stop) → the terms of the images order[start] … order[stop − 1]."""
    config, data = run.experiment.likelihood, run.experiment.data
    source, transform = skipping(run.source(config.split), data), make_transform(data)
    generator = make_generator(run, {DIFFUSION: load_network(run, DIFFUSION)})
    size = _batch_size(run, len(order))

    def judge(start: int, stop: int) -> Rows:
        # A short batch is filled up, so that all are of one compiled shape.
        index = order[np.minimum(np.arange(start, start + size), len(order) - 1)]
        with limits.likelihood(run.experiment):
            batch = load_batch(source, index, transform=transform)
            low_res = reduce_images(batch['image'], data.low_res_size) if data.low_res_size else None
            terms = generator.bits_per_dimension(
                batch['image'],
                batch['label'],
                index=index,
                seed=config.seed,
                respacing=config.respacing,
                clip=config.clip,
                low_res=low_res,
            )
        terms['index'] = np.where(is_readable(source, index), index, ~index)
        return {name: rows[: stop - start] for name, rows in terms.items()}

    return judge

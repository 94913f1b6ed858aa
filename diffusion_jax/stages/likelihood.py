"""Stage `likelihood`: the variational bound in bits per dimension of real images, with all its terms."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.config import READING_SETTINGS
from diffusion_jax.data.pipeline import load_batch
from diffusion_jax.data.sources import describe, resolve
from diffusion_jax.data.sources.wrappers import is_readable, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import UserError
from diffusion_jax.images import reduce_images
from diffusion_jax.report import Progress
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.shards import SHARDS, Rows, fill, list_shards, read
from diffusion_jax.stages import stamps
from diffusion_jax.stages.networks import average_of, check_network, load_network, network_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import make_generator
from diffusion_jax.stages.stamps import Results, settings_of
from diffusion_jax.stored_networks import DIFFUSION
from diffusion_jax.workdir import write_json, write_stamp

logger = logging.getLogger(__name__)

RESULT_FILE = 'likelihood.json'
OUTSIDE_THE_RESULT = ('num_images', 'batch_size')


def check(run: Run) -> None:
    """Raises UserError if the devices, the images or the network do not fit the config."""
    config = run.experiment.likelihood
    check_batch_size(run.mesh, config.batch_size, 'likelihood.batch_size')
    check_network(run, DIFFUSION)
    run.check_images(config.split)
    available = len(run.source(config.split))
    if config.num_images > available:
        problem = f'{config.num_images} is more than the {available} images of the {config.split} split'
        raise UserError('config.likelihood.num_images', problem, 'give at most that, or 0 for all')


def locate(run: Run) -> Results:
    """The folder and the stamp of the bound: the parameters, the process, the images and the settings."""
    experiment, config = run.experiment, run.experiment.likelihood
    stamp = {
        'likelihood': settings_of(config, OUTSIDE_THE_RESULT),
        'ema_rate': average_of(run, DIFFUSION),
        'diffusion': network_stamp(run, DIFFUSION),
        'process': settings_of(experiment.diffusion, ('loss',)),
        'data': settings_of(resolve(experiment.data), READING_SETTINGS),
        'images': describe(run.source(config.split)),
    }
    return stamps.locate(run.workdir / 'likelihood', 'likelihood', stamp)


def complete(run: Run, results: Results) -> bool:
    """Whether the result is of the requested number of images."""
    try:
        result = json.loads((results.directory / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValueError):  # a damaged file is written again
        return False
    return result.get('num_images', 0) + result.get('left_out', 0) == len(_image_order(run))


def main(run: Run, results: Results) -> None:
    config, (directory, stamp) = run.experiment.likelihood, results
    num_images = len(_image_order(run))
    progress = Progress(f'likelihood, {config.split} split', num_images)
    size, hosts = run.batch_size('likelihood', num_images), (jax.process_index(), jax.process_count())
    terms = _make_terms(run, size)
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
    where = directory / SHARDS
    fill(where, progress, num_images, size, terms, run.stop, host=hosts[0], num_hosts=hosts[1])
    if jax.process_index() == 0:
        means = mean_terms(where, num_images)
        timesteps = schedule_of(run.experiment.diffusion, config.respacing).timesteps
        protocol = {'steps': len(timesteps), 'checkpoint_step': stamp['diffusion'].get('step'), **stamp}
        numbers = {name: value for name, value in means.items() if np.ndim(value) == 0}
        write_json(directory / RESULT_FILE, numbers | {'protocol': protocol, 'timesteps': timesteps} | means)
        logger.info('%s: %s', directory / RESULT_FILE, summary(means))


def mean_terms(directory: Path, num_images: int) -> dict[str, Any]:
    """Means over the first images of the shards: numbers, and arrays [T] from the first timestep on.

    `standard_error` is that of `bits_per_dimension` as a mean over images. Unreadable images, which have a
    negative index in the shards, are excluded; `left_out` is their number. UserError if fewer than 2 remain.
    """
    totals = []
    sums: dict[str, Any] = dict.fromkeys(('prior', 'vb', 'x_0_mse', 'eps_mse'), 0.0)
    for shard in list_shards(directory):
        # An earlier run may have computed more images.
        terms = read(shard, 'index', 'total', *sums)
        terms = {name: term[: max(num_images - shard.start, 0)] for name, term in terms.items()}
        terms = {name: term[terms['index'] >= 0] for name, term in terms.items()}
        totals.append(terms['total'])
        sums = {name: sums[name] + terms[name].sum(axis=0, dtype=np.float64) for name in sums}
    total = np.concatenate(totals).astype(np.float64)
    if len(total) < 2:
        problem = f'only {len(total)} of {num_images} images could be read'
        raise UserError(str(directory), problem, 'the standard error needs at least two')
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


def summary(means: dict[str, Any]) -> str:
    """The numbers for people."""
    text = f'{means["bits_per_dimension"]:.3f} ± {means["standard_error"]:.3f} bits per dimension (decoder '
    text += f'{means["decoder"]:.3f}, transitions {means["vb"][1:].sum():.3f}, prior {means["prior"]:.2g}), '
    return text + f'mean and standard error of {means["num_images"]:,} images, {means["left_out"]:,} left out'


def _image_order(run: Run) -> np.ndarray:
    """The indices of the images, [N]; a larger number of images begins with those of a smaller one."""
    config = run.experiment.likelihood
    available = len(run.source(config.split))
    return np.random.default_rng(config.seed).permutation(available)[: config.num_images or available]


def _make_terms(run: Run, size: int) -> Callable[[int, int], Rows]:
    """Returns a function (start, stop) → the terms of these images in `_image_order`, of at most `size`."""
    config, data, order = run.experiment.likelihood, run.experiment.data, _image_order(run)
    source, transform = skipping(run.source(config.split), data), make_transform(data)
    generator = make_generator(run, {DIFFUSION: load_network(run, DIFFUSION)})

    def terms_of(start: int, stop: int) -> Rows:
        # A short batch is padded: all have one compiled shape.
        index = order[np.minimum(np.arange(start, start + size), len(order) - 1)]
        with run.fits('the likelihood', 'likelihood.batch_size'):
            batch = load_batch(source, index, transform=transform)
            terms = generator.bits_per_dimension(
                batch['image'],
                batch['label'],
                index=index,
                seed=config.seed,
                respacing=config.respacing,
                clip=config.clip,
                low_res=reduce_images(batch['image'], data.low_res_size) if data.low_res_size else None,
            )
        terms['index'] = np.where(is_readable(source, index), index, ~index)
        return {name: rows[: stop - start] for name, rows in terms.items()}

    return terms_of

"""Settings of a sampling run."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import UserError

SAMPLERS = ('ddpm', 'ddim')


@dataclass(frozen=True)
class SampleConfig:
    """Which images are drawn, and how.

    Attributes:
        name: the samples go to samples/<name>; by default to samples/, or, where other samples live there
            already, to a folder named after what differs.
        sampler: 'ddpm' or 'ddim'.
        respacing: the steps that are kept of the process: '250', 'ddim25', '90,60,60,20,20'; '' is all.
        eta: of DDIM; 0 is deterministic, 1 as random as DDPM.
        scale: s of classifier guidance; 0 does without the classifier.
        clip: x_0 is clamped to [−1, 1] in every step, before guidance.
        labels: 'balanced' (image i is of class i mod K) or 'random'.
        classes: only these, in turn or at random as `labels` says; () is all of the data set's.
        ema_rate: which average of the diffusion model's parameters is used; 0 is the parameters themselves.
        classifier_ema_rate: the same for the classifier.
        base_samples: of an upsampler, the file of samples that it enlarges, such as
            runs/imagenet64/samples/samples.npz; image i enlarges sample i modulo their number, of its class.
        unguided: beside guided images draw the same ones without guidance, to samples/unguided.
        grid_columns: how many images of each class samples/grid.png shows.
    """

    name: str = ''
    sampler: str = 'ddpm'
    respacing: str = '250'
    eta: float = 0.0
    scale: float = 1.0
    clip: bool = True
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    labels: str = 'balanced'
    classes: tuple[int, ...] = ()
    ema_rate: float = 0.9999
    classifier_ema_rate: float = 0.0
    base_samples: str = ''
    unguided: bool = False
    grid_columns: int = 10

    @property
    def guided(self) -> bool:
        return self.scale > 0

    @property
    def with_unguided(self) -> bool:
        return self.guided and self.unguided


def check_sample(config: SampleConfig, num_classes: int) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('sampler', config.sampler, SAMPLERS)
    one_of('labels', config.labels, ('balanced', 'random'))
    for key in ('num_samples', 'batch_size', 'grid_columns'):
        between(key, getattr(config, key), 1)
    for key in ('eta', 'scale'):
        between(key, getattr(config, key), 0)
    between('seed', config.seed, 0, below=2**32)
    for label in config.classes:
        between('classes', label, 0, below=num_classes)
    if '/' in config.name or config.name.startswith('.') or config.name == 'unguided':
        raise UserError(f'name is {config.name!r}; it must be a plain folder name')


def check_respacing(diffusion: DiffusionConfig, respacing: str) -> None:
    """Raises UserError unless the process has such steps."""
    if not isinstance(respacing, str):
        raise UserError(f"respacing is {respacing!r}; give a text such as '250' or 'ddim25'")
    try:
        schedule_of(diffusion, respacing)
    except ValueError as error:
        raise UserError(f'respacing is {respacing!r}: {error}') from error

"""Settings of a training run, of a diffusion model or of a classifier."""

from dataclasses import dataclass

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How one network is trained.

    Attributes:
        num_steps: the number of optimizer steps.
        batch_size: images in one step, over all devices and hosts.
        microbatches: the number of parts of a batch, computed in turn to save memory; gradients are averaged.
        flip: training images are mirrored with probability 1/2.
        random_crop: training images are cropped at random, else at the centre.
        low_res_noise: the least and the largest standard deviation of noise on the image that an upsampler
            enlarges, below 1, as conditioning augmentation (2106.15282); () is none, as in the paper.
        learning_rate: the learning rate of AdamW, after the warm-up.
        learning_rate_schedule: 'constant', or down to 0 at `num_steps` as 'linear' or 'cosine'.
        warmup_steps: the number of first steps over which the learning rate rises linearly from 0.
        weight_decay: the weight decay of AdamW.
        clip_norm: gradients of a larger global norm are scaled down to it; 0 is off.
        ema_rates: an average of the parameters is kept for each, ema = rate·ema + (1−rate)·params.
        ema_warmup: the rate of step n is min(rate, (1+n)/(10+n)): averages soon forget the start.
        timestep_sampler: how timesteps are sampled, 'uniform' or 'loss_second_moment'.
        max_skipped: training stops after this number of steps in a row whose loss or gradient is not finite.
        profile: the first and the last step of a trace by jax.profiler, in the folder `profile`; () is none.
        log_every: steps between lines of metrics.
        validate_every: steps between validations of a classifier on test images; 0 is never.
        sample_every: steps between grids of samples of a diffusion model; 0 is never.
        evaluate_every: steps between evaluations of samples of a diffusion model; 0 is never.
        evaluate_samples: the number of samples in each of these evaluations.
        checkpoint_every: steps between checkpoints; 0 writes only the last one.
        keep_checkpoints: the number of newest checkpoints that are kept.
    """

    num_steps: int
    batch_size: int
    microbatches: int = 1
    flip: bool = False
    random_crop: bool = False
    low_res_noise: tuple[float, ...] = ()
    learning_rate: float = 1e-4
    learning_rate_schedule: str = 'constant'
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema_rates: tuple[float, ...] = (0.9999,)
    ema_warmup: bool = False
    timestep_sampler: str = 'uniform'
    max_skipped: int = 10
    profile: tuple[int, ...] = ()
    log_every: int = 10
    validate_every: int = 0
    sample_every: int = 0
    evaluate_every: int = 0
    evaluate_samples: int = 1000
    checkpoint_every: int = 10_000
    keep_checkpoints: int = 3


# Settings that steps do not depend on. (One exception: a decaying learning rate depends on `num_steps`,
# so that extending the run raises it again.)
OUTSIDE_THE_RESULT = (
    'num_steps',
    'microbatches',
    'max_skipped',
    'profile',
    'log_every',
    'validate_every',
    'sample_every',
    'evaluate_every',
    'evaluate_samples',
    'checkpoint_every',
    'keep_checkpoints',
)


def check_train(config: TrainConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    for key in ('num_steps', 'batch_size', 'microbatches', 'max_skipped', 'log_every', 'keep_checkpoints'):
        between(key, getattr(config, key), 1, below=INT32)
    intervals = ('validate_every', 'sample_every', 'evaluate_every', 'checkpoint_every')
    for key in ('learning_rate', 'weight_decay', 'clip_norm', *intervals):
        between(key, getattr(config, key), 0)
    between('evaluate_samples', config.evaluate_samples, 4, below=INT32)  # precision needs 3 neighbours
    if not 0 <= config.warmup_steps < config.num_steps:
        remedy = (
            f'must be at least 0 and below num_steps, {config.num_steps}; for a short trial set it to 0, too'
        )
        raise UserError('warmup_steps', f'got {config.warmup_steps}', remedy)
    low, high = config.low_res_noise if len(config.low_res_noise) == 2 else (1.0, 0.0)
    if config.low_res_noise and not 0 <= low <= high < 1:
        remedy = 'must be the least and the largest, from 0 to below 1, such as 0,0.2'
        raise UserError('low_res_noise', f'got {config.low_res_noise}', remedy)
    for rate in config.ema_rates:
        between('ema_rates', rate, 0, below=1)
    one_of('learning_rate_schedule', config.learning_rate_schedule, ('constant', 'linear', 'cosine'))
    one_of('timestep_sampler', config.timestep_sampler, ('uniform', 'loss_second_moment'))
    first, last = config.profile if len(config.profile) == 2 else (1, 0)
    if config.profile and not 1 <= first <= last <= config.num_steps:
        remedy = f'must be the first and the last step of a trace, from 1 to num_steps, {config.num_steps}'
        raise UserError('profile', f'got {config.profile}', remedy)
    if config.batch_size % config.microbatches:
        remedy = f'must divide batch_size, {config.batch_size}'
        raise UserError('microbatches', f'got {config.microbatches}', remedy)

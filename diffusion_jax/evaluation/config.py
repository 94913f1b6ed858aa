"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError

SPLITS = ('train', 'test')
RESIZES = ('tensorflow', 'pytorch_fid')


@dataclass(frozen=True)
class EvaluateConfig:
    """Attributes:
    inception: the weights of Inception, which `diffusion-jax convert-inception` makes of known files; ''
        compares pixels, which is of use for images up to 32×32 and comparable with nothing else.
    reference: what the samples are compared with: the 'train' or 'test' split of the data, a file such as
        VIRTUAL_imagenet256_labeled.npz or what `diffusion-jax make-reference` writes, or a folder of images.
    resize: how images come to Inception's 299×299: as TensorFlow 1 did, on which the paper's numbers rest, or
        'pytorch_fid', as the program of that name does.
    batch_size: of Inception, on all devices together.
    bootstrap: standard errors from so many resamplings of the samples; 0 does without.
    judge: 'digits_svm' has an independent classifier say how often a sample shows the digit that was asked
        for; '' does without.
    required_agreement: the share of the samples in samples/ on which the judge must agree; less is a failure.
    """

    inception: str = ''
    reference: str = 'test'
    resize: str = 'tensorflow'
    batch_size: int = 64
    bootstrap: int = 0
    judge: str = ''
    required_agreement: float = 0.0

    @property
    def splits(self) -> tuple[str, ...]:
        """Which splits of the data are looked at; where pixels are compared, both."""
        if not self.inception:
            return SPLITS
        return (self.reference,) if self.reference in SPLITS else ()


def check_evaluate(config: EvaluateConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('resize', config.resize, RESIZES)
    one_of('judge', config.judge, ('', 'digits_svm'))
    between('batch_size', config.batch_size, 1)
    between('bootstrap', config.bootstrap, 0)
    between('required_agreement', config.required_agreement, 0, most=1)
    if config.bootstrap == 1:
        raise UserError(
            'bootstrap is 1; a standard error needs two resamplings at least, and 20 to be of use'
        )
    if not config.inception:
        if config.resize != EvaluateConfig.resize:
            raise UserError(f"resize is {config.resize!r}; it is Inception's, set inception too")
        if config.reference not in SPLITS:
            raise UserError(
                f'reference is {config.reference!r}; without inception, where pixels are compared, it is one '
                f'of {SPLITS}'
            )


def check_bootstrap(key: str, num_resamples: int) -> None:
    """Raises UserError for a number of resamplings that cannot work."""
    between(key, num_resamples, 0)
    if num_resamples == 1:
        raise UserError(f'{key} is 1; a standard error needs two resamplings at least, and 20 to be of use')

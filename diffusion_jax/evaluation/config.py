"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.settings import FilePath

SPLITS = ('train', 'test')
MAX_RESAMPLES = 10_000  # by far enough, and a mistyped number does not run for days
RESIZES = ('tensorflow', 'pytorch_fid')


@dataclass(frozen=True)
class EvaluateConfig:
    """Attributes:
    inception: the weights of Inception, as `diffusion-jax convert-inception` writes them; '' compares pixels.
        Pixels serve for images up to 32×32×3, and the result is comparable with nothing else.
    reference: what samples are compared with: 'train' or 'test' images, an .npz, or a folder of images. The
        file is one such as VIRTUAL_imagenet256_labeled.npz, or what `diffusion-jax make-reference` writes.
        Samples of some classes are compared with the images of these classes alone, where the reference gives
        the classes of its images and has no statistics; otherwise a remark says that they are not.
    resize: how images are resized to 299×299, 'tensorflow' or 'pytorch_fid'. The paper's numbers depend on
        the first, the resize of TensorFlow 1; the other is that of the program of that name.
    batch_size: images in one batch of Inception, over all devices.
    bootstrap: the number of resamplings of the samples for standard errors; 0 is none.
    judge: 'digits_svm' has an independent classifier count the samples that show the digit of their label; ''
        is none.
    required_agreement: the share of the samples in samples/ on which the judge must agree; less is a failure.
    """

    inception: FilePath = ''
    reference: FilePath = 'test'
    resize: str = 'tensorflow'
    batch_size: int = 64
    bootstrap: int = 0
    judge: str = ''
    required_agreement: float = 0.0

    @property
    def splits(self) -> tuple[str, ...]:
        """Which splits of the data are looked at; where pixels are compared, both."""
        if self.reference not in SPLITS:
            return ()
        return (self.reference,) if self.inception else SPLITS


def check_evaluate(config: EvaluateConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('resize', config.resize, RESIZES)
    one_of('judge', config.judge, ('', 'digits_svm'))
    between('batch_size', config.batch_size, 1)
    check_bootstrap('bootstrap', config.bootstrap)
    between('required_agreement', config.required_agreement, 0, most=1)
    if not config.reference:
        raise UserError("reference is ''; it must be 'train', 'test', a file or a folder of images")
    if not config.inception and config.resize != EvaluateConfig.resize:
        raise UserError(f"resize is {config.resize!r}; it is Inception's, set inception too")


def check_bootstrap(key: str, num_resamples: int) -> None:
    """Raises UserError for a number of resamplings that cannot work."""
    between(key, num_resamples, 0, below=MAX_RESAMPLES + 1)
    if num_resamples == 1:
        raise UserError(f'{key} is 1; a standard error needs two resamplings at least, and 20 to be of use')

"""Settings of an evaluation."""

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.settings import FilePath

SPLITS = ('train', 'test')
MAX_RESAMPLES = 10_000  # a mistyped number does not run for days
RESIZES = ('tensorflow', 'pytorch_fid')


@dataclass(frozen=True)
class EvaluateConfig:
    """Attributes:
    inception: the weights of Inception, written by `diffusion-jax convert-inception`; '' compares pixels, of
        images up to 32×32×3, and the result is comparable with nothing else.
    reference: what samples are compared with: 'train' or 'test' images, an .npz, or a folder of images. The
        file is one such as VIRTUAL_imagenet256_labeled.npz, or is made by `diffusion-jax make-reference`.
        Samples of some classes are compared with the images of these classes, if the reference gives
        the classes of its images and has no statistics; otherwise a remark reports that they are not.
    resize: how images are resized to 299×299, 'tensorflow' or 'pytorch_fid'. The paper's numbers depend on
        the first, the resize of TensorFlow 1; the other is that of the program of that name.
    batch_size: images in one batch of Inception, over all devices.
    bootstrap: the number of resamplings of the samples for standard errors; 0 is none.
    """

    inception: FilePath = ''
    reference: FilePath = 'test'
    resize: str = 'tensorflow'
    batch_size: int = 64
    bootstrap: int = 0


def check_evaluate(config: EvaluateConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('resize', config.resize, RESIZES)
    between('batch_size', config.batch_size, 1)
    between('bootstrap', config.bootstrap, 0, below=MAX_RESAMPLES + 1)
    if config.bootstrap == 1:
        raise UserError('bootstrap', 'got 1', 'must be 0 or at least 2, such as 20')
    if not config.reference:
        raise UserError('reference', "got ''", "must be 'train', 'test', a file or a folder of images")
    if not config.inception and config.resize != EvaluateConfig.resize:
        raise UserError('resize', f'got {config.resize!r}, a setting of Inception', 'set inception too')

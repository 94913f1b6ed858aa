"""Diffusion models with classifier guidance (Dhariwal & Nichol, 2021, arXiv 2105.05233) in JAX.

    import diffusion_jax

    model = diffusion_jax.load('runs/digits')        # a run, a folder of training, or a file of weights
    samples = model.sample(8, 3)                     # eight images of class 3: .images, uint8 [8, H, W, C]
    more = model.sample(8, 3, scale=10.0)            # guided more; nothing is compiled again
    other = model.sample(8, 3, sampler='dpmpp_2m', respacing='log_snr:12')
    codes = model.invert(samples.images, 3)          # the noise that leads to these images
    diffusion_jax.show(samples).save('threes.png')   # a picture of all of them

`python -m diffusion_jax.main --config=configs/digits.py` trains, samples and evaluates, and
`diffusion-jax --help` lists the commands. The equations are in `diffusion`, the networks in `models`;
`training`, `generation` and `evaluation` run them. Everything is imported at its first use.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_MODULES = ('data', 'diffusion', 'evaluation', 'generation', 'models', 'training', 'weights')
_GENERATION = (
    'Generator',
    'Samples',
    'choose_grid',
    'interpolate',
    'load',
    'save_grid',
    'show',
    'trajectory',
)
_ORIGIN = dict.fromkeys(_GENERATION, 'generation') | {'UserError': 'errors'}

__all__ = list(_ORIGIN)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f'{__name__}.{name}')
    if name in _ORIGIN:
        return getattr(importlib.import_module(f'{__name__}.{_ORIGIN[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*_ORIGIN, *_MODULES, '__doc__', '__version__'])

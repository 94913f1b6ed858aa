"""The package and what it needs. Exact versions that were tested together are in requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'diffusion_jax' / '__init__.py').read_text()).group(1)

# flax up to 0.12.8 does not import with JAX 0.11.1 or newer, nor 0.12.9 with 0.11.2; 0.12.10 needs
# JAX 0.11.1 and Python 3.12. No bound can name pairs, but JAX 0.11 needs Python 3.12 as well: older flax is
# excluded there.
JAX = '>=0.8.1,<0.12'
LMDB = 'lmdb>=1.4'

setup(
    name='diffusion_jax',
    version=VERSION,
    description='Diffusion models with classifier guidance (arXiv 2105.05233) in JAX',
    author='The diffusion_jax authors',
    license='MIT',
    python_requires='>=3.11',
    packages=[*find_packages(include=['diffusion_jax', 'diffusion_jax.*']), 'diffusion_jax.configs'],
    package_dir={'diffusion_jax.configs': 'configs'},
    package_data={'diffusion_jax.data': ['imagenet.txt']},
    install_requires=[
        'absl-py',
        'array-record>=0.8.6',
        'flax>=0.12.6; python_version < "3.12"',
        'flax>=0.12.10; python_version >= "3.12"',
        'grain>=0.2.18',
        'importlib_resources',  # tensorflow-datasets imports it and does not ask for it
        f'jax{JAX}',
        'ml-collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12.8',
        'pillow>=10.4',
        'safetensors>=0.8',
        'scikit-learn>=1.5',
        'scipy>=1.13',
        'tensorboardX>=2.6.2',
        'tensorflow-datasets>=4.9.10',
        'tqdm>=4.66',
    ],
    extras_require={
        'cuda': [f'jax[cuda12]{JAX}'],
        'tpu': [f'jax[tpu]{JAX}'],
        'plan': [f'jax[tpu]{JAX}'],  # libtpu, which compiles for TPUs without one
        'lmdb': [LMDB],
        'convert': ['torch>=2.3'],  # the first that knows NumPy 2
        'dev': [
            'hypothesis',
            'import-linter>=2.5',
            'ipykernel',
            LMDB,
            'mypy>=2',
            'nbclient',
            'nbformat',
            'pytest-xdist>=3.6',
            'pytest>=8',
            'ruff',
        ],
        'experiments': ['matplotlib', 'scikit-image'],
    },
    entry_points={'console_scripts': ['diffusion-jax = diffusion_jax.commands.cli:main']},
)

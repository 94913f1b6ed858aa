"""Writes the lock files beside this script: the exact versions that pip chooses for the bounds of setup.py.

`make lock` runs it, with the oldest Python that the project supports: what installs there, newer ones install
too. There are no hashes, so that one file serves Linux and macOS.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PYTHON = (3, 11)

LOCKS = {
    'runtime.lock': ['.'],
    'dev.lock': ['.[dev]'],
    'oldest.lock': [
        '.[dev]',
        'flax==0.12.6',
        'jax==0.8.3',
        'ml-collections==1.0.*',
        'numpy==2.0.*',
        'optax==0.2.8',
        'pillow==10.4.*',
        'scikit-learn==1.5.*',
        'tensorboardX==2.6.2.*',
    ],
}


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name → version of all that pip would install into an empty environment, but for the project itself."""
    with tempfile.NamedTemporaryFile() as report:
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--ignore-installed']
        subprocess.run([*pip, '--report', report.name, *requirements], cwd=FOLDER.parent, check=True)
        packages = [item['metadata'] for item in json.load(report)['install']]
    versions = {re.sub(r'[-_.]+', '-', item['name']).lower(): item['version'] for item in packages}
    del versions['diffusion-jax']
    return versions


def main() -> None:
    if sys.version_info[:2] != PYTHON:
        sys.exit(f'lock files are made with Python {".".join(map(str, PYTHON))}: make lock PYTHON=python3.11')
    for name, requirements in LOCKS.items():
        lines = [f'# pip install {" ".join(requirements)}, resolved by `make lock`']
        lines += [f'{package}=={version}' for package, version in sorted(resolve(requirements).items())]
        (FOLDER / name).write_text('\n'.join(lines) + '\n')
        print(f'requirements/{name}: {len(lines) - 1} packages')


if __name__ == '__main__':
    main()

"""`diffusion-jax images`: stored samples as PNG files."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.command_line import Parser
from diffusion_jax.data.image_sets.archive import open_archive, open_samples
from diffusion_jax.generation.images import write_pngs
from diffusion_jax.interruption import stop_requests
from diffusion_jax.settings import file_path

DESCRIPTION = """\
Writes stored samples as PNG files, <index>_<label>.png, to one folder.

SAMPLES is a folder of samples, its folder of shards, or an npz in the authors' format (arr_0, uint8 images
[N, H, W, C], C from 1 to 4; arr_1, their labels, if any):

      diffusion-jax images runs/digits/samples --out digits
      diffusion-jax images samples.npz --out images

The same command again writes the missing files. Other files are never overwritten."""


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code.

    Raises:
        UserError: there are no samples, or the folder contains other images.
        Interrupted: on a signal; what was written is kept.
    """
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('samples', type=file_path, metavar='SAMPLES')
    help = 'is made if it does not exist'
    parser.add_argument('--out', type=file_path, required=True, metavar='DIR', help=help)
    args = parser.parse_args(argv[1:])
    samples, out = Path(args.samples), Path(args.out)
    images = open_samples(samples) if samples.is_dir() else open_archive(samples, channels=(1, 2, 3, 4))
    with stop_requests() as stop:
        number = write_pngs(images, out, stop)
    print(f'{out}: {number:,} PNG files')
    return 0

"""`diffusion-jax convert-inception`: Inception's released weights into the one file that evaluation reads."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.command_line import Parser
from diffusion_jax.commands.image_sets import check_out
from diffusion_jax.evaluation.inception.files import save_inception
from diffusion_jax.evaluation.inception.sources import read_inception
from diffusion_jax.settings import file_path

DESCRIPTION = """\
Converts the weights of Inception v3 (2015-12-05), the network behind published FID, sFID, Inception score,
precision and recall, into one file. The file records its source, detects damage when it is read, and loads
without PyTorch and TensorFlow.

SOURCE is one of
  pt_inception-2015-12-05-6726825d.pth  of pytorch-fid; needs PyTorch: pip install 'diffusion_jax[convert]'
  classify_image_graph_def.pb           of TensorFlow, in inception-2015-12-05.tgz: what the paper used
Nothing in these files is executed. Both hold the same network; compare the SHA-256 of the parameters, which
is printed.

      diffusion-jax convert-inception classify_image_graph_def.pb --out inception.safetensors
      diffusion-jax evaluate SAMPLES REFERENCE --inception=inception.safetensors"""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code."""
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('source', type=file_path, metavar='SOURCE', help='a file with released weights')
    parser.add_argument('--out', type=file_path, required=True, metavar='FILE', help='replaced if it exists')
    args = parser.parse_args(argv[1:])
    check_out(args.out, args.source)
    inception = read_inception(args.source)
    save_inception(args.out, inception)
    leaves = jax.tree.leaves(inception.params)
    print(f'{args.source}: {len(leaves)} arrays, {sum(map(np.size, leaves)):,} parameters')
    print(f'SHA-256 of the source:     {inception.source_sha256}')
    print(f'SHA-256 of the parameters: {inception.sha256}')
    print(f'{args.out}: written, {Path(args.out).stat().st_size / 1e6:,.1f} MB')
    print(f'use it: diffusion-jax evaluate SAMPLES REFERENCE --inception={args.out}')
    return 0

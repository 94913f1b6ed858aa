"""`diffusion-jax configs`: every config that has a name, with what to expect of it."""

from collections.abc import Sequence

from diffusion_jax.command_line import Parser
from diffusion_jax.config import read_without_images
from diffusion_jax.config_files import load_config, named_configs
from diffusion_jax.experiment import Experiment

DESCRIPTION = """\
Lists the configs that have a name: image size, data, guidance scale, the published or measured result, and
what it is. The docstring of each config (diffusion_jax/configs, or configs in a checkout) tells more.

      python -m diffusion_jax.main --config=digits
      diffusion-jax show-config digits"""
HEADER = ('config', 'size', 'data', 'scale', 'expect', '')


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code."""
    Parser(argv[0], DESCRIPTION).parse_args(argv[1:])
    experiments = {}
    for name, path in named_configs().items():
        config = load_config(str(path))
        experiments[name] = read_without_images(config.experiment), config.doc
    by_size = sorted(experiments.items(), key=lambda item: (item[1][0].data.image_size, item[0]))
    rows = [HEADER, *(_row(name, *experiment) for name, experiment in by_size)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        '\nrun one: python -m diffusion_jax.main --config=NAME; its settings: diffusion-jax show-config NAME'
    )
    return 0


def first_sentence(text: str) -> str:
    """The text up to its first full stop or empty line, on one line."""
    return ' '.join(text.partition('\n\n')[0].split()).partition('. ')[0].removesuffix('.')


def _row(name: str, experiment: Experiment, doc: str) -> tuple[str, ...]:
    data, sample = experiment.data, experiment.sample
    return (
        name,
        '×'.join(map(str, data.image_size)),
        data.tfds_name or data.path or data.name,
        f'{sample.scale:g}' if sample.guided else 'none',
        first_sentence(doc.partition('\nExpect: ')[2]),
        first_sentence(doc),
    )

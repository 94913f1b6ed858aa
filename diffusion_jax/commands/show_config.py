"""`diffusion-jax show-config`: every setting of a config with its value and its meaning."""

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from diffusion_jax.command_line import Parser, read_config
from diffusion_jax.config import SECTIONS, all_settings, read_without_images, with_defaults
from diffusion_jax.experiment import Experiment
from diffusion_jax.settings import meanings, read_value
from diffusion_jax.weights.known import published_recipes

DESCRIPTION = """\
Prints every setting of a config with its value, as the command line takes it, and its meaning.

      diffusion-jax show-config imagenet64
      diffusion-jax show-config my_config.py --config.sample.scale=2"""
COLUMN = 44


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code.

    Raises:
        UserError: the config, or a change of it, cannot work.
    """
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('config', metavar='NAME|FILE', help='a name that `configs` lists, or a Python file')
    args, settings = parser.parse_known_args(argv[1:])
    config = read_config(args.config, settings)
    experiment = read_without_images(config)
    print('\n'.join([*describe(config, experiment), *recipes_of(experiment)]))
    return 0


def describe(config: dict[str, Any], experiment: Experiment) -> Iterator[str]:
    """The lines: settings of no section first, then those of each section that the config has."""
    complete = with_defaults(**config).to_dict()
    of_experiment = meanings(Experiment)
    for section in ('', *(name for name in SECTIONS if name in complete)):
        if section:
            yield f'\n{section}: {of_experiment[section].removesuffix(".")}'
        values = complete[section] if section else complete
        if section == 'sample':  # with what a recipe decides
            values = dataclasses.asdict(experiment.sample) | values
        texts = meanings(SECTIONS[section]) if section else of_experiment
        for setting, hint in all_settings().items():
            owner, _, key = setting.rpartition('.')
            if owner == section:
                value = as_text(read_value(hint, values[key], setting))
                yield f'{f"{setting} = {value}":<{COLUMN}}  {texts[key].partition(". ")[0].removesuffix(".")}'


def recipes_of(experiment: Experiment) -> Iterator[str]:
    """The lines of the published recipes of the experiment's diffusion model, if it is a published one."""
    guided = experiment.classifier is not None
    published = published_recipes(experiment.unet, experiment.diffusion, guided=guided)
    if published:
        yield '\nrecipes (sample.recipe): published figure and its source'
    yield from (f'{each.name:<{COLUMN}}  {each.mark}' for each in published)


def as_text(value: Any) -> str:
    """A value as a shell takes it after `--config.SECTION.SETTING=`."""
    if isinstance(value, tuple):
        return shlex.quote(','.join(map(as_text, value)) or '()')
    short = f'{value:g}' if isinstance(value, float) else ''
    return shlex.quote(short if short and float(short) == value else str(value))

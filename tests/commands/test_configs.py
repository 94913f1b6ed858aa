"""`configs` and `show-config`."""

import pytest

from diffusion_jax.command_line import read_config
from diffusion_jax.commands import configs, show_config
from diffusion_jax.config import all_settings, read_experiment
from diffusion_jax.config_files import named_configs
from diffusion_jax.errors import UserError


def test_every_config_has_a_line_with_what_to_expect(capsys):
    assert configs.main(['configs']) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert named_configs().keys() < lines.keys()
    sizes = [int(line.split('×')[0].split()[-1]) for line in lines.values() if '×' in line]
    assert sizes == sorted(sizes) and len(set(sizes)) > 3
    for name, parts in {
        'imagenet256': ('256×256', 'FID 4.59', 'ADM-G'),
        'lsun_cat': ('lsun/cat', 'none', 'FID 5.57'),
        'digits': ('8×8', 'label agreement 99 %'),
    }.items():
        assert all(part in lines[name] for part in parts), lines[name]


def test_every_setting_is_printed_as_the_command_line_takes_it(capsys):
    changes = ['--config.sample.classes=3,1', '--config.sample.name=a b']
    assert show_config.main(['show-config', 'digits', *changes]) == 0
    lines = capsys.readouterr().out.splitlines()
    (batch_size,) = [line for line in lines if line.startswith('train.batch_size = ')]
    assert batch_size.split('  ')[0] == 'train.batch_size = 64' and batch_size.endswith('devices and hosts')
    values = dict(line.split('  ')[0].split(' = ') for line in lines if ' = ' in line.split('  ')[0])
    assert values.keys() == all_settings().keys()
    assert values['sample.classes'] == '3,1' and values['sample.name'] == "'a b'"
    flags = [f'--config.{name}={value.strip(chr(39))}' for name, value in values.items()]
    same = read_experiment(read_config('digits', flags))
    assert same == read_experiment(read_config('digits', changes))


def test_sections_that_a_config_does_not_have_are_not_printed(capsys):
    assert show_config.main(['show-config', 'lsun_cat']) == 0
    printed = capsys.readouterr().out
    assert '\nclassifier.' not in printed and "\nsample.classes = '()' " in printed
    with pytest.raises(UserError, match='did you mean lsun_cat'):
        show_config.main(['show-config', 'lsun_cats'])


def test_recipes_of_a_published_model_are_printed_with_their_marks(capsys):
    assert show_config.main(['show-config', 'imagenet256']) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('recipes'))
    marks = dict(line.split(maxsplit=1) for line in lines[start + 1 :])
    assert marks['paper'] == 'FID 4.59 (2105.05233, table 5)' and marks['fast-10'] == 'not measured'
    show_config.main(['show-config', 'digits'])
    assert 'recipes (' not in capsys.readouterr().out


def test_what_a_recipe_decides_is_printed(capsys):
    show_config.main(['show-config', 'imagenet256', '--config.sample.recipe=paper-ddim'])
    printed = capsys.readouterr().out
    assert 'sample.sampler = ddim ' in printed and 'sample.scale = 2.5 ' in printed
    show_config.main(['show-config', 'imagenet64', '--config.sample.recipe=edm', '--config.sample.eta=0.0'])
    printed = capsys.readouterr().out
    assert 'sample.sampler = heun:s_churn=40.0,s_min=0.05,s_max=50.0,s_noise=1.003' in printed

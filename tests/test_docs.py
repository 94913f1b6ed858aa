"""README and docs: their Python runs, their commands parse, and what they name exists."""

import ast
import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.command_line import Parser, parse_flags, read_config
from diffusion_jax.commands.cli import COMMANDS
from diffusion_jax.config import SECTIONS, all_settings, read_without_images
from diffusion_jax.data.imagenet import class_names
from diffusion_jax.diffusion import denoiser, grids, guidance, inverse, samplers
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.process import Level, add_noise
from diffusion_jax.diffusion.samplers import loop
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import check_stages
from diffusion_jax.generation import loading, options, sampling
from diffusion_jax.images import to_float
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.weights.released import RELEASED
from tests.tiny import TRUNK
from tests.versions import VERSIONS

ROOT = Path(__file__).parent.parent
README, DOCS = ROOT / 'README.md', ROOT / 'docs'
SAMPLING, DESIGN = DOCS / 'sampling.md', DOCS / 'design.md'
PAGES = [README, *sorted(DOCS.glob('*.md')), ROOT / 'experiments' / 'launch' / 'README.md']
PLACEHOLDERS = {'FILE', 'NAME', 'SOURCE'}
each_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


def inline_code(page):
    return re.findall(r'`([^`\n]+)`', re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S))


# Python.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a stored run in the place of runs/digits, and its weights."""
    shutil.copytree(VERSIONS[-1] / 'run', tmp_path / 'runs' / 'digits')
    for name in ('diffusion.safetensors', 'classifier.safetensors'):
        shutil.copy(VERSIONS[-1] / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    # Programs for one device compile faster than those for eight.
    monkeypatch.setattr(loading, 'make_mesh', lambda: make_mesh(devices=jax.devices()[:1]))
    return tmp_path


def run_blocks(page):
    """The variables after all Python blocks of a page."""
    scope = {'__name__': page.stem}
    for number, block in enumerate(blocks(page, 'python'), 1):
        exec(compile(block, f'{page.name}, block {number}', 'exec'), scope)
    return scope


@pytest.mark.slow
def test_python(folder):
    scope = run_blocks(DOCS / 'python.md')
    assert (folder / 'threes.png').stat().st_size
    assert scope['other'].evaluations == 12
    assert scope['steps'].x_0.shape == (5, 8, 8, 8, 1) and len(scope['gradients']) == 5
    assert scope['x'].shape == (8, 8, 8, 1) and np.isfinite(scope['x']).all()
    by_hand = np.asarray(scope['images']).astype(int)
    np.testing.assert_allclose(by_hand, scope['model'].sample(8, 3).images, rtol=0, atol=1)
    assert scope['gradient'].shape == (8, 8, 8, 1) and np.abs(scope['gradient']).max() > 0


@pytest.mark.slow
@pytest.mark.usefixtures('folder')
def test_own_parts():
    scope = run_blocks(DOCS / 'own_parts.md')
    completed, known = scope['completed'].images, scope['known']
    kept = np.abs((completed + 0.5) / 127.5 - 1 - np.asarray(known)) < 0.01
    assert kept[:, :, :4].all() and not kept[:, :, 4:].all()
    assert scope['samples'].evaluations == 10


@pytest.mark.slow
@pytest.mark.usefixtures('folder')
def test_inverse_problems():
    scope = run_blocks(DOCS / 'inverse_problems.md')
    kept = np.abs((scope['completed'].images + 0.5) / 127.5 - 1 - scope['truth']) < 0.01
    assert kept[:, :, :4].all() and not kept[:, :, 4:].all()
    assert scope['restored'].evaluations == scope['threes'].evaluations == 10
    assert scope['resampled'].evaluations == 19


@pytest.mark.slow
@pytest.mark.usefixtures('folder')
def test_particles():
    scope = run_blocks(DOCS / 'particles.md')
    assert scope['chosen'].shape == (8, 8, 8, 1)
    by_hand, built_in = scope['by_hand'], scope['samples']
    np.testing.assert_allclose(by_hand.images.astype(int), built_in.images.astype(int), rtol=0, atol=1)
    np.testing.assert_allclose(by_hand.log_weight, built_in.log_weight, rtol=1e-4)
    assert scope['completed'].log_weight.shape == scope['steered'].log_weight.shape == (4,)
    assert scope['ancestors'].shape == scope['ess'].shape == (10, 8)
    assert scope['final'].shape == (2,) and 1 <= scope['final'].min() <= scope['final'].max() <= 4.001


@pytest.mark.slow
@pytest.mark.usefixtures('folder')
def test_methods():
    """Each is at most 12 lines, and makes the images of the built-in part."""
    page = DOCS / 'methods.md'
    scope = run_blocks(page)
    text = '\n'.join(blocks(page, 'python'))
    written = [node for node in ast.parse(text).body if re.match('Own|purify', getattr(node, 'name', ''))]
    lines = text.splitlines()
    lengths = [len([*filter(None, lines[node.lineno - 1 : node.end_lineno])]) for node in written]
    assert len(lengths) == 5 and max(lengths) <= 12, lengths

    model, known, mask, guidance = (scope[name] for name in ('model', 'known', 'mask', 'guidance'))
    measurement = inverse.Measurement(inverse.Mask(mask[None, None] * jnp.ones((1, 8, 8, 1))), mask * known)
    how = {'respacing': '10', 'floats': True}
    built_in = {
        'dps': model.sample(4, 3, sampler=inverse.DPS(measurement, 0.3), **how),
        'tds': model.sample(8, 3, sampler=samplers.SMC(4), guidance=guidance, **how),
    }
    tfg = samplers.TFG(0.05, 0.02, 0.0, log_prob=scope['log_prob'])
    built_in['tfg'] = model.sample(4, 3, sampler=tfg, **how | {'respacing': 'travel:10/1,2'})
    how['respacing'] = 'repaint:10/2,2'
    parts = model.parts(model.request(4, 3, respacing=how['respacing']))
    first = Level(*(values[0] for values in parts.grid.level))
    pasted = add_noise(known, parts.noise_at(1, 1), first)  # which the built-in one leaves out there
    x_T = np.where(mask, pasted, parts.x_T)
    built_in['repaint'] = model.sample(4, 3, sampler=inverse.RePaint(measurement), x_T=x_T, **how)
    for name, expected in built_in.items():
        atol = 2e-2 if name == 'tds' else 1e-3  # its steps round in another order
        np.testing.assert_allclose(scope[name].x_0, expected.x_0, rtol=1e-3, atol=atol, err_msg=name)
    np.testing.assert_allclose(scope['tds'].log_weight, built_in['tds'].log_weight, rtol=1e-2, atol=1e-2)
    images = to_float(model.sample(4, 3).images)
    pure = model.purify(images, 3, start=0.5, respacing='10')
    np.testing.assert_allclose(scope['pure'], pure, rtol=1e-3, atol=1e-3)


def save_released(folder, networks, **facts):
    """Networks of one level in the place of the released ones, by their names."""
    rng = np.random.default_rng(0)
    for file, network in networks.items():
        params = jax.tree.map(
            lambda leaf: rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), param_shapes(network)
        )
        spec = Spec(network, DiffusionConfig(), file, class_names(), **facts)
        save_weights(folder / f'{file}.safetensors', spec, params)


RELEASED_UNET = UNetConfig(**TRUNK | {'image_channels': 3}, out_channels=6, num_classes=1000)
RELEASED_CLASSIFIER = ClassifierConfig(**TRUNK | {'image_channels': 3})


def test_readme_and_the_essence_of_sampling(folder):
    save_released(folder, {'256x256_diffusion': RELEASED_UNET, '256x256_classifier': RELEASED_CLASSIFIER})
    first, second = blocks(README, 'python')
    scope = {}
    exec(first, scope)
    assert (folder / 'golden retrievers.png').stat().st_size
    model, samples = scope['model'], scope['samples']
    assert samples.evaluations == 25
    (essence,) = blocks(DESIGN, 'python')
    request = model.request(8, 'golden retriever', recipe='paper-ddim')
    keys = sampling.sample_keys(request.seed, request.index)
    scope = vars(samplers) | vars(denoiser) | vars(loop) | vars(guidance) | vars(grids) | vars(sampling)
    scope |= {
        'networks': model.networks,
        'params': model.params,
        'y': request.y,
        'scale': dict(RELEASED['256x256_diffusion'].recipes)['paper-ddim'].guidance[0].scale,
        'keys': keys,
        'x_T': loop.noise_of(keys, (8, 8, 3))(0, 0),
    }
    exec(essence, scope)
    np.testing.assert_allclose(np.asarray(scope['images'], int), samples.images, rtol=0, atol=1)
    scope = {}
    exec(second, scope)
    images = scope['samples'].images.astype(int)
    np.testing.assert_allclose(images, images[:, :, ::-1], atol=4)
    assert images.std() > 4


@pytest.mark.slow
def test_upsampling(folder):
    save_released(folder, {'64x64_diffusion': RELEASED_UNET, '64x64_classifier': RELEASED_CLASSIFIER})
    large = dataclasses.replace(RELEASED_UNET, image_size=(16, 16), low_res=True)
    save_released(folder, {'64_256_upsampler': large}, low_res_size=(8, 8))
    (folder / 'pictures').mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / 'pictures' / 'a.png')
    scope = run_blocks(DOCS / 'upsampling.md')
    assert (folder / 'large.png').stat().st_size and (folder / 'small.png').stat().st_size
    assert scope['samples'].images.shape == (8, 16, 16, 3)
    assert scope['samples'].base.images.shape == (8, 8, 8, 3)
    assert scope['enlarged'].images.shape == (1, 16, 16, 3)


# Commands.


class Parsed(Exception):
    """What a command's parser returned."""


def check_command(arguments, monkeypatch):
    """Fails unless a program understands its arguments; runs nothing."""
    program, *rest = arguments
    if program == 'python' and rest[:2] == ['-m', 'diffusion_jax.main']:
        check_run(rest[1:])
    elif program == 'diffusion-jax':
        check_subcommand(*rest, monkeypatch=monkeypatch)
    elif program == 'python':
        path = f'{rest[1].replace(".", "/")}.py' if rest[0] == '-m' else rest[0]
        source = (ROOT / path).read_text()
        flags = [each.partition('=')[0] for each in rest if each.startswith('--')]
        assert all(flag in source for flag in flags if not flag.startswith('--config'))
    elif program == 'make':
        assert re.search(rf'^{rest[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    elif program == 'pip':
        extras = re.findall(r'\[(\w+)\]', rest[-1])
        assert all(f"'{extra}': [" in (ROOT / 'setup.py').read_text() for extra in extras)
    else:
        assert program in ('nohup', 'pytest', 'tensorboard'), program


def check_run(arguments):
    options = parse_flags(arguments)
    experiment = read_without_images(options.config)
    check_stages(experiment, options.stages or experiment.stages, '--stage')


def check_subcommand(name, *arguments, monkeypatch):
    assert name in COMMANDS
    if not arguments:  # the name of the command alone
        return
    if name == 'run':
        return check_run([name, *arguments])

    def stopped(parse):
        def stop(*given):
            patched.undo()
            raise Parsed(*parse(*given))

        return stop

    with monkeypatch.context() as patched, pytest.raises(Parsed) as parsed:
        for method in ('parse_known_args', 'parse_known_intermixed_args'):
            patched.setattr(Parser, method, stopped(getattr(Parser, method)))
        COMMANDS[name].main([name, *arguments])
    known, settings = parsed.value.args
    if settings or getattr(known, 'config', None):
        read_without_images(read_config(known.config, settings))


def commands(page):
    """The commands of a page: the lines of its shell blocks, and its inline code that begins like one."""
    text = ''.join(blocks(page, 'sh')).replace('\\\n', ' ')
    starts = ('python -m ', 'python experiments', 'diffusion-jax ', 'make ', 'pip ')
    inline = [code for code in inline_code(page) if code.startswith(starts) and '…' not in code]
    for line in [*text.splitlines(), *inline]:
        arguments = [each for each in shlex.split(line, comments=True) if '=' not in each or each[0] == '-']
        if arguments and not PLACEHOLDERS & {part for each in arguments for part in each.split('=')}:
            yield arguments


@each_page
def test_commands(page, monkeypatch):
    for arguments in commands(page):
        try:
            check_command(arguments, monkeypatch)
        except Exception as error:
            raise AssertionError(shlex.join(arguments)) from error


def test_commands_are_found_and_wrong_ones_fail(monkeypatch):
    assert sum(len(list(commands(page))) for page in PAGES) > 40
    for wrong in (
        'python -m diffusion_jax.main --config=digits --config.train.steps=1',
        'python -m diffusion_jax.main --config=digits --stage=trian',
        'diffusion-jax evaluate samples',
        'diffusion-jax plan --config=digits --config.sample.sampler=euler',
        'python experiments/benchmark.py --no-such-flag',
        'make no-such-target',
    ):
        with pytest.raises((AssertionError, UserError)):
            check_command(shlex.split(wrong), monkeypatch)


@each_page
def test_settings_exist(page):
    code = ' '.join([*inline_code(page), *blocks(page, 'sh')])
    named = re.findall(r'--config\.([\w.]+)', code)
    named += re.findall(rf'(?<![\w/.-])((?:{"|".join(SECTIONS)})\.(?!py|md|log)[a-z]\w*)(?![\w(])', code)
    assert set(named) <= {*all_settings(), 'unet.parameters'}


@each_page
def test_flags_exist(page):
    """Those that the text names without a command."""
    folders = (ROOT / 'diffusion_jax', ROOT / 'experiments')
    source = ''.join(path.read_text() for folder in folders for path in folder.rglob('*.py'))
    for code in inline_code(page):
        for flag in re.findall(r'^--(?!config\.|xla)[\w-]+', code):
            assert re.search(rf"'{flag}'", source), flag


# Names, links and files.


def anchors(page):
    titles = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


@each_page
def test_links_resolve(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        path, _, anchor = target.partition('#')
        if '://' not in target:
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@each_page
def test_files_exist(page):
    folders = 'experiments|tests|configs|docs|diffusion_jax'
    for name in re.findall(rf'(?<![\w/])((?:{folders})/[\w./]*\w)', ' '.join(inline_code(page))):
        assert (ROOT / name).exists() or list(ROOT.glob(f'{name}*')), name


def test_functions_of_the_paper_exist():
    table = DESIGN.read_text().partition('## The paper in the code')[2].partition('\n## ')[0]
    references = re.findall(r'`([\w/]+\.py): ([\w, ]+)`', table)
    assert len(references) >= 15
    for path, names in references:
        tree = ast.parse((ROOT / 'diffusion_jax' / path).read_text())
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert set(names.split(', ')) <= defined, path


def test_functions_of_the_interfaces_exist():
    text = DESIGN.read_text().partition('## Interfaces')[2].split('```')[1]
    source = ''.join(path.read_text() for path in (ROOT / 'diffusion_jax').rglob('*.py'))
    defined = set(re.findall(r'^ *(?:def|class) (\w+)', source, re.MULTILINE))
    named = set(re.findall(r'(\w+)\(', text))
    assert len(named) >= 15 and named <= defined


def test_every_module_has_its_place():
    """Those directly in the package."""
    _, text = DESIGN.read_text().split('\ndiffusion_jax/\n')
    named = set(
        re.findall(r'\b(\w+(?:\.py|/))', ''.join(re.findall('^  [^ ].*?(?:   |$)', text, re.MULTILINE)))
    )
    children = (ROOT / 'diffusion_jax').glob('[!_]*')
    assert named == {path.name if path.is_file() else f'{path.name}/' for path in children}


def test_pages_are_short():
    for page in PAGES:
        assert len(page.read_text().splitlines()) <= (200 if page == DESIGN else 140), page
    assert len(README.read_text().splitlines()) <= 120


# Tables of sampling.md.


def test_settings_of_the_table_exist():
    """Samplers, guidances and grids as they stand in the text, for the paper's two processes."""
    choice, grids_of_levels = SAMPLING.read_text().split('## Grids')

    def named(name, text):
        return re.findall(rf"{name}='([^']*)'", text)

    samplers_, guidances = named('sampler', choice), named('guidance', choice)
    assert len(samplers_) >= 3 and len(guidances) >= 3
    for text in samplers_:
        options.read_sampler(text)
    for text in guidances:
        assert options.read_guidance(text)
    checked = 0
    for row in choice.splitlines():
        for respacing in named('respacing', row):
            for schedule in ('cosine', 'linear'):
                make_grid(DiffusionConfig(schedule=schedule), respacing, *named('timesteps', row))
                checked += 1
    for texts in re.findall(r'^\| (`.*?) \|', grids_of_levels, re.MULTILINE):
        for text in re.findall('`([^`]*)`', texts):
            make_grid(DiffusionConfig(), text)
            checked += 1
    assert checked >= 12


def test_recipes_of_the_table_are_those_of_the_models():
    rows = re.findall(r'^\| (\w+) \| ([\d.]+) \| .* \| ([\d.]+) \| ', SAMPLING.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for name, *scales in rows:
        (_, paper), (_, ddim) = RELEASED[name].recipes[:2]
        assert [paper.respacing, ddim.respacing] == ['250', 'ddim25']
        assert [recipe.guidance[0].scale for recipe in (paper, ddim)] == [float(scale) for scale in scales]

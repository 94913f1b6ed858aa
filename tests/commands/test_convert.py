"""`convert` and `export`. Stand-ins read and write PyTorch's files: see weights/test_torch_files.py."""

import dataclasses
import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.commands import convert, export
from diffusion_jax.config import read_experiment
from diffusion_jax.errors import UserError
from diffusion_jax.main import parse_flags
from diffusion_jax.models import describe_network
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from diffusion_jax.weights import foreign
from diffusion_jax.weights.files import Spec, load_weights, read_spec, save_weights
from diffusion_jax.weights.known import MODELS
from diffusion_jax.weights.reference import from_reference, reference_shapes
from diffusion_jax.weights.released import RELEASED
from diffusion_jax.workdir import write_stamp
from tests.tiny import CLASSIFIER, DIFFUSION, TRAIN, UNET

DIGITS = Path(__file__).parent.parent.parent / 'configs' / 'digits.py'
TORCH_FILES = {}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """A file of PyTorch is an entry of TORCH_FILES."""
    TORCH_FILES.clear()
    monkeypatch.setattr(foreign, 'read_state', lambda path: TORCH_FILES[str(path)])
    monkeypatch.setattr(export, 'write_state', TORCH_FILES.__setitem__)


def released_shapes(name):
    return reference_shapes(RELEASED[name].network)


def random_state(shapes):
    """Large arrays are broadcast from one number and take no memory."""
    rng = np.random.default_rng(0)
    return {
        key: rng.standard_normal(shape, np.float32)
        if np.prod(shape) < 1e6
        else np.broadcast_to(np.float32(rng.standard_normal()), shape)
        for key, shape in shapes.items()
    }


def run(command, *arguments):
    return command.main([f'diffusion-jax {command.__name__}', *map(str, arguments)])


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@functools.cache
def digits():
    return read_experiment(parse_flags(['test', f'--config={DIGITS}']).config)


@pytest.mark.parametrize('name', ['128x128_classifier', ''])
def test_a_released_model_goes_in_and_out(tmp_path, capsys, name):
    TORCH_FILES['model.pt'] = state = random_state(released_shapes('128x128_classifier'))
    out = tmp_path / 'model.safetensors'
    assert run(convert, *filter(None, [name]), 'model.pt', '--out', out) == 0
    printed = capsys.readouterr().out
    assert 'model.pt: 128x128_classifier; 221 arrays, 42,568,040 parameters' in printed
    assert f'--config=imagenet128 --stage=sample --config.pretrained.classifier={out}' in printed
    spec = read_spec(out)
    assert spec.network == RELEASED['128x128_classifier'].network
    assert (spec.diffusion.schedule, spec.name) == ('linear', '128x128_classifier')
    assert run(export, out, '--out', 'back.pt') == 0
    back = TORCH_FILES['back.pt']
    assert list(back) == list(state)
    assert all(np.array_equal(back[key], state[key]) for key in state)


@pytest.mark.slow
def test_a_model_of_others_is_converted_by_its_name(tmp_path, capsys):
    """The layout of the consistency models: qkv is a convolution of rank 4."""
    name = 'edm_imagenet64_ema'
    state = random_state(reference_shapes(MODELS[name].network))
    state = {key: array[..., None] if array.ndim == 3 else array for key, array in state.items()}
    TORCH_FILES[f'{name}.pt'] = state
    out = tmp_path / 'out.safetensors'
    assert run(convert, f'{name}.pt', '--out', out) == 0
    printed = capsys.readouterr().out
    assert f'{name}.pt: {name}; 541 arrays, 295,899,267 parameters' in printed
    assert f"use it: diffusion_jax.load('{out}')" in printed
    spec = read_spec(out)
    assert (spec.name, spec.diffusion) == (name, MODELS[name].diffusion) and len(spec.classes) == 1000


@pytest.mark.slow
def test_of_several_with_one_architecture_the_file_name_decides(tmp_path, capsys):
    state = random_state(released_shapes('lsun_cat'))
    for stem, name in (('lsun_horse', 'lsun_horse'), ('animals', '')):
        TORCH_FILES[f'{stem}.pt'] = state
        assert run(convert, f'{stem}.pt', '--out', tmp_path / 'out') == 0
        assert read_spec(tmp_path / 'out').name == name
        assert read_spec(tmp_path / 'out').diffusion == RELEASED['lsun_cat'].diffusion
    assert 'lsun_horse or lsun_horse_nodropout' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['diffusion', 'classifier'])
def test_other_networks_have_a_config(tmp_path, capsys, kind):
    network = {'diffusion': digits().unet, 'classifier': digits().classifier}[kind]
    TORCH_FILES['fork.pt'] = state = random_state(reference_shapes(network))
    flags = [f'--config={DIGITS}', f'--network={kind}'] if kind == 'classifier' else [f'--config={DIGITS}']
    assert run(convert, 'fork.pt', '--out', tmp_path / 'out', *flags) == 0
    assert f'fork.pt: the {kind} of {DIGITS}' in capsys.readouterr().out
    spec, params = load_weights(tmp_path / 'out')
    assert describe_network(spec.network) == describe_network(network)
    assert (spec.diffusion, spec.name) == (digits().diffusion, '')
    assert_same(params, from_reference(network, state))


@pytest.mark.parametrize(
    ('change', 'arguments', 'words'),
    [
        (
            {'out.2.c_proj.bias': (10,)},
            ['128x128_classifier'],
            ['128x128_classifier', 'out.2.c_proj.bias: (1000,) expected, (10,) found', '220 of 221'],
        ),
        ({'fc.bias': (10,)}, [], ['128x128_classifier', 'fc.bias: nothing expected', '221 of 222']),
        ({}, ['256x256_classifier'], ['256x256_classifier', '221 of 221', '128x128_classifier']),
        ({}, [f'--config={DIGITS}'], ['the diffusion of', 'digits.py', '221 of 221', '128x128_classifier']),
    ],
)
def test_another_network_is_named_with_the_most_similar(tmp_path, change, arguments, words):
    TORCH_FILES['model.pt'] = random_state(released_shapes('128x128_classifier') | change)
    named = [argument for argument in arguments if not argument.startswith('-')]
    flags = [argument for argument in arguments if argument.startswith('-')]
    with pytest.raises(UserError) as error:
        run(convert, *named, 'model.pt', '--out', tmp_path / 'out', *flags)
    assert error.value.where == 'model.pt' and '\n' not in str(error.value)
    assert all(word in error.value.problem for word in words)
    assert not (tmp_path / 'out').exists()


def test_a_foreign_file_resembles_nothing(tmp_path):
    TORCH_FILES['resnet.pt'] = {'conv1.weight': np.zeros((64, 3, 7, 7), np.float32)}
    with pytest.raises(UserError, match=r'resembles no published model .*conv1.weight \(64, 3, 7, 7\)'):
        run(convert, 'resnet.pt', '--out', tmp_path / 'out')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder of training, and the parameters in it: the averages differ from them and from each other."""
    folder = tmp_path_factory.mktemp('run') / 'diffusion'
    params = jax.jit(models.init, static_argnums=0)(UNET, jax.random.key(0))
    ema = {rate: jax.tree.map(lambda leaf, r=rate: leaf * float(r), params) for rate in ('0.9', '0.99')}
    state = init_state(params, TRAIN, 100, jax.random.key(7))._replace(ema=ema, step=np.int32(30))
    with Checkpoints(folder / 'checkpoints') as checkpoints:
        checkpoints.save(state, {}, describe_network(UNET))
    stamp = {'diffusion': dataclasses.asdict(DIFFUSION), 'train': dataclasses.asdict(TRAIN)}
    write_stamp(folder, stamp)
    return folder, {'0': params} | ema


@pytest.mark.parametrize(
    ('flags', 'rate', 'said'),
    [
        ([], '0.99', 'step 30, average of rate 0.99'),
        (['--ema', '0.9'], '0.9', 'average of rate 0.9'),
        (['--ema=0'], '0', 'step 30;'),
    ],
)
def test_a_training_becomes_one_file(trained, tmp_path, capsys, flags, rate, said):
    folder, params = trained
    assert run(convert, folder, '--out', tmp_path / 'out', *flags) == 0
    printed = capsys.readouterr().out
    assert said in printed and f'--config.pretrained.diffusion={tmp_path / "out"}' in printed
    spec, loaded = load_weights(tmp_path / 'out')
    assert (spec.network, spec.diffusion, spec.name) == (UNET, DIFFUSION, '')
    assert_same(loaded, params[rate])


def test_an_average_that_was_not_kept_is_named(trained, tmp_path):
    with pytest.raises(UserError) as error:
        run(convert, trained[0], '--out', tmp_path / 'out', '--ema=0.5')
    assert 'ema_0.5' in str(error.value) and 'ema_0.9, ema_0.99, params' in str(error.value)


def test_a_folder_without_training_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        run(convert, tmp_path, '--out', tmp_path / 'out')
    assert error.value.where == str(tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'where'),
    [
        (['64x64', 'a.pt', '--out=o'], 'NAME'),
        (['a.pt', '--out=o', '--network=classifier'], '--network'),
        (['lsun_cat', 'a.pt', '--out=o', f'--config={DIGITS}'], '--config'),
        (['lsun_cat', '.', '--out=o'], 'NAME'),
        (['.', '--out=o', f'--config={DIGITS}'], '--config'),
        (['a.pt', '--out=o', '--ema=0.99'], '--ema'),
        (['lsun_cat', 'a.pt', '--out=a.pt'], '--out'),
        (['lsun_cat', 'a.pt', '--out=.'], '--out'),
        (['a.pt', '--out=o', '--config=nothing.py'], 'nothing.py'),
        (['a.safetensors', '--out=o'], 'a.safetensors'),
    ],
)
def test_invalid_arguments(arguments, where):
    TORCH_FILES['a.pt'] = {}
    with pytest.raises(UserError) as error:
        run(convert, *arguments)
    assert str(error.value).startswith(where)


def test_of_a_whole_run_its_networks_are_named(trained, tmp_path):
    for name in ('diffusion', 'classifier'):
        shutil.copytree(trained[0], tmp_path / 'run' / name)
    with pytest.raises(UserError) as caught:
        run(convert, tmp_path / 'run', '--out', tmp_path / 'out')
    for name in ('diffusion', 'classifier'):
        assert str(tmp_path / 'run' / name) in str(caught.value)


def test_a_place_that_cannot_be_written_is_named_first(trained, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError) as error:
        run(convert, trained[0], '--out', tmp_path / 'file' / 'out')
    assert error.value.where == str(tmp_path / 'file' / 'out')


def test_options_may_stand_before_the_source(tmp_path):
    for arguments, where in (([], str(tmp_path)), (['lsun_cat'], 'NAME')):
        with pytest.raises(UserError, match=where):
            run(convert, '--out', tmp_path / 'out', *arguments, tmp_path)


def test_help_teaches(capsys):
    for command, texts in {
        convert: ('256x256_diffusion.pt --out', '--config=', 'runs/digits/diffusion', '512x512_classifier'),
        export: ('load_state_dict', 'digits.safetensors --out digits.pt'),
    }.items():
        with pytest.raises(SystemExit) as stop:
            run(command, '--help')
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert all(text in printed for text in texts)


def test_exported_classifiers_and_upsamplers_come_back(tmp_path):
    for network in (CLASSIFIER, dataclasses.replace(UNET, low_res=True)):
        state = random_state(reference_shapes(network))
        save_weights(tmp_path / 'in', Spec(network, DIFFUSION), from_reference(network, state))
        assert run(export, tmp_path / 'in', '--out', 'out.pt') == 0
        assert all(np.array_equal(TORCH_FILES['out.pt'][key], state[key]) for key in state)


@pytest.mark.parametrize('other', [{'rescale_residual': True}, {'norm_groups': 16}])
def test_networks_that_the_authors_code_cannot_build_are_not_exported(tmp_path, other):
    network = dataclasses.replace(CLASSIFIER, **other)
    params = from_reference(network, random_state(reference_shapes(network)))
    save_weights(tmp_path / 'in', Spec(network, DIFFUSION), params)
    with pytest.raises(UserError) as error:
        run(export, tmp_path / 'in', '--out', 'out.pt')
    assert error.value.where == str(tmp_path / 'in') and 'out.pt' not in TORCH_FILES


def test_every_released_model_has_a_config():
    for model in RELEASED.values():
        assert (DIGITS.parent / f'{model.config}.py').is_file()

"""Files of weights in an experiment: sampled from, tuned, and refused where they do not fit."""

import dataclasses
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax import generation, main, models
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages.networks import with_average
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.tuning import check_start, load_start
from diffusion_jax.stored_networks import describe_stored
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from diffusion_jax.weights.files import Spec, load_weights, save_weights
from diffusion_jax.workdir import write_stamp
from tests.program import arguments, run
from tests.tiny import TRAIN

STEPS = {'sampler': 'ddim', 'respacing': '5'}


@pytest.fixture(scope='module')
def experiment():
    return main.read_experiment(main.parse_flags(arguments('unused')).config)


def random_params(network, seed):
    shapes, rng = models.param_shapes(network), np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def files(experiment, tmp_path_factory):
    """Both networks; the classifier also for seven classes; the diffusion model also of another process."""
    folder = tmp_path_factory.mktemp('weights')
    other_process = dataclasses.replace(experiment.diffusion, schedule='linear')
    guide = experiment.classifier
    seven = dataclasses.replace(guide, num_classes=7)
    conditional = dataclasses.replace(experiment.unet, num_classes=10)
    process = experiment.diffusion
    specs = {
        'diffusion': Spec(experiment.unet, process),
        'classifier': Spec(guide, process),
        'linear': Spec(experiment.unet, other_process),
        'conditional': Spec(conditional, process),
        'seven': Spec(seven, process),
        'classifier_linear': Spec(guide, other_process),
    }
    paths = {name: folder / f'{name}.safetensors' for name in specs}
    seeds = {'classifier': 1, 'seven': 2, 'classifier_linear': 1}
    for name, spec in specs.items():
        save_weights(paths[name], spec, random_params(spec.network, seeds.get(name, 0)))
    return paths


def pretrained(files, **names):
    return {f'pretrained__{network}': files[name] for network, name in names.items()}


def test_the_program_draws_what_a_notebook_draws(files, tmp_path):
    networks = pretrained(files, diffusion='diffusion', classifier='classifier')
    change = {'sample__unguided': False, 'sample__num_samples': 16, 'sample__classes': '3,5'}
    assert run(tmp_path, 'sample', **networks, **change) == 0
    assert not (tmp_path / 'diffusion').exists()
    model = generation.load(files['diffusion'], files['classifier'])
    with np.load(tmp_path / 'samples' / 'samples.npz') as samples:
        np.testing.assert_array_equal(samples['arr_1'], [3, 5] * 8)
        found = model.sample(16, samples['arr_1'], scale=5.0, **STEPS)
        np.testing.assert_array_equal(samples['arr_0'], found.images)


def test_another_file_makes_other_samples(files, tmp_path):
    change = {'sample__unguided': False, 'sample__scale': 0, 'sample__num_samples': 8}
    assert run(tmp_path, 'sample', **pretrained(files, diffusion='diffusion'), **change) == 0
    copy = tmp_path / 'copy.safetensors'
    stored = models.param_shapes(generation.load(files['diffusion']).unet)
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.05, np.float32), stored)
    model = generation.load(files['diffusion'])
    save_weights(copy, Spec(model.unet, model.diffusion), weights)
    assert run(tmp_path, 'sample', pretrained__diffusion=copy, **change) == 0
    assert len(list((tmp_path / 'samples').rglob('samples.npz'))) == 2


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ({'diffusion': 'classifier'}, 'holds a classifier, not a diffusion model'),
        ({'diffusion': 'linear'}, 'schedule is linear there and cosine in the config'),
        (
            {'diffusion': 'diffusion', 'classifier': 'seven'},
            'num_classes is 7 there and 10 in the config; train one for 10 classes first: '
            '--stage=train_classifier',
        ),
        ({'diffusion': 'diffusion', 'classifier': 'classifier_linear'}, 'schedule is linear there'),
        ({'diffusion': 'diffusion', 'classifier': 'diffusion'}, 'holds a diffusion model, not a classifier'),
    ],
)
def test_files_that_do_not_fit_the_config(files, names, message, tmp_path, capfd):
    assert run(tmp_path, 'sample', **pretrained(files, **names)) == 2
    assert message in capfd.readouterr().err


def test_a_folder_of_another_process_is_refused(files, experiment, tmp_path, capfd):
    state = init_state(random_params(experiment.unet, 0), TRAIN, 50, jax.random.key(0))
    process = dataclasses.replace(experiment.diffusion, prediction='eps')
    with Checkpoints(tmp_path / 'trained' / 'checkpoints') as checkpoints:
        checkpoints.save(state, {}, models.describe_network(experiment.unet))
    write_stamp(tmp_path / 'trained', {'diffusion': dataclasses.asdict(process)})
    change = {'pretrained__diffusion': tmp_path / 'trained', 'sample__scale': 0, 'sample__ema_rate': 0.9}
    assert run(tmp_path / 'run', 'sample', **change) == 2
    assert 'prediction is eps there and v in the config' in capfd.readouterr().err
    assert run(tmp_path / 'run', 'sample', **change, diffusion__prediction='eps') == 0


def test_a_pretrained_folder_is_sampled_with_its_own_slowest_average(experiment, tmp_path):
    trained = tmp_path / 'trained'
    write_stamp(trained, {'train': {'ema_rates': [0.9, 0.99]}, 'pretrained': ''})
    experiment = main.read_experiment(
        main.parse_flags(arguments('unused', pretrained__diffusion=trained)).config
    )
    run = Run(experiment, tmp_path / 'run', None, lambda: False)
    for stages, rate in ((['sample'], 0.99), (['train', 'sample'], 0.995)):
        assert with_average(run, stages).experiment.sample.ema_rate == rate
    write_stamp(run.workdir / 'diffusion', {'pretrained': str(trained)})  # it was tuned here
    assert with_average(run, ['sample']).experiment.sample.ema_rate == 0.995


def test_a_file_may_be_moved(files, tmp_path, capfd):
    change = {'sample__unguided': False, 'sample__scale': 0, 'sample__num_samples': 8}
    assert run(tmp_path, 'sample', **pretrained(files, diffusion='diffusion'), **change) == 0
    moved = shutil.copy(files['diffusion'], tmp_path / 'moved.safetensors')
    assert run(tmp_path, 'sample', pretrained__diffusion=moved, **change) == 0
    assert 'sample: complete already' in capfd.readouterr().err


def test_a_file_that_is_not_there(tmp_path, capfd):
    assert run(tmp_path, 'sample', pretrained__diffusion='/nowhere.safetensors', sample__scale=0) == 2
    assert '/nowhere.safetensors: no such file' in capfd.readouterr().err


def test_tuning_for_other_classes_draws_the_head_anew_and_says_so(files, tmp_path, capfd):
    change = {'train_classifier__learning_rate': 1e-12, 'train_classifier__validate_every': 0}
    assert run(tmp_path, 'train_classifier', **pretrained(files, classifier='seven'), **change) == 0
    assert ': head/pool/out/bias, head/pool/out/kernel' in capfd.readouterr().err
    tuned = ocp.StandardCheckpointer().restore(tmp_path / 'classifier' / 'checkpoints' / '4' / 'params')
    stored = load_weights(files['seven'])[1]
    assert tuned['head']['pool']['out']['bias'].shape == (10,)
    for part in ('encoder', 'middle', 'time_embedding'):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tuned[part], stored[part])
    np.testing.assert_allclose(tuned['head']['norm']['scale'], stored['head']['norm']['scale'], atol=1e-6)


@pytest.mark.slow
def test_tuning_with_classes_of_a_model_that_had_none(files, tmp_path, capfd):
    change = {'unet__class_conditional': True, 'train__sample_every': 0, 'train__num_steps': 1}
    assert run(tmp_path, 'train', **pretrained(files, diffusion='diffusion'), **change) == 0
    assert '7 and 2 more): label_embedding/embedding' in capfd.readouterr().err


@pytest.mark.slow
def test_tuning_with_label_dropout(files, tmp_path, capfd):
    """From a file that never had it; the folder remembers, and is sampled by configs that do not say it."""
    conditional = {'unet__class_conditional': True, 'train__num_steps': 1, 'train__sample_every': 0}
    dropping = conditional | pretrained(files, diffusion='conditional') | {'unet__label_dropout': 0.5}
    assert run(tmp_path, 'train', **dropping) == 0
    assert 'initialised for other classes' not in capfd.readouterr().err
    folder = tmp_path / 'diffusion'
    assert describe_stored(files['conditional']).network.label_dropout == 0
    assert describe_stored(folder).network.label_dropout == 0.5
    assert generation.load(folder).unet.label_dropout == 0.5
    sample = {'sample__scale': 0, 'sample__num_samples': 8, 'pretrained__diffusion': folder}
    assert run(tmp_path / 'other', 'sample', **conditional, **sample, evaluate__judge='') == 0
    assert run(tmp_path, 'train', **dropping | {'unet__label_dropout': 0}) == 2
    assert 'network.label_dropout: had 0.5, now 0.0' in capfd.readouterr().err


def test_label_dropout_is_no_part_of_the_architecture(files, experiment):
    stored = describe_stored(files['conditional']).network
    network, mesh = dataclasses.replace(stored, label_dropout=0.1), make_mesh()
    check_start(files['conditional'], network, experiment.diffusion)
    params = load_start(files['conditional'], network, (), jax.random.key(0), mesh)
    jax.tree.map(np.testing.assert_array_equal, params, load_weights(files['conditional'])[1])


def test_png_files_belong_to_what_is_complete(files, tmp_path, capfd):
    change = {'sample__unguided': False, 'sample__scale': 0, 'sample__num_samples': 8, 'sample__png': True}
    networks = pretrained(files, diffusion='diffusion')
    assert run(tmp_path, 'sample', **networks, **change) == 0
    assert str(tmp_path / 'samples' / 'shards') in capfd.readouterr().err
    paths = sorted((tmp_path / 'samples' / 'png').iterdir())
    assert [path.name for path in paths] == [f'00000{i}.png' for i in range(8)]  # of no class: unguided
    paths[3].unlink()
    assert run(tmp_path, 'sample', **networks, **change) == 0 and paths[3].exists()
    assert 'complete already' not in capfd.readouterr().err
    assert run(tmp_path, 'sample', **networks, **change) == 0
    assert 'sample: complete already' in capfd.readouterr().err

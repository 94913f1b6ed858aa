"""Files of weights in an experiment: sampled from, tuned, and refused where they do not fit."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffusion_jax import generation, models
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Pretrained
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages import sample, train_classifier
from diffusion_jax.stages.finetune import check_start, load_start
from diffusion_jax.stages.networks import (
    average_of,
    check_classes,
    check_network,
    find_network,
    report_unread_images,
    start_stamp,
)
from diffusion_jax.stored_networks import describe_stored
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import init_state
from diffusion_jax.weights.files import Spec, load_weights, save_weights
from diffusion_jax.workdir import write_stamp
from tests.errors import refused
from tests.program import run
from tests.stages.runs import make_run, read_experiment
from tests.tiny import TRAIN

STEPS = {'sampler': 'ddim', 'respacing': '5'}


@pytest.fixture(scope='module')
def experiment():
    return read_experiment()


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
    change = {'sample__unguided': False, 'sample__num_samples': 20, 'sample__classes': '3,5'}
    assert run(tmp_path, 'sample', **networks, **change) == 0
    assert not (tmp_path / 'diffusion').exists()
    model = generation.load(files['diffusion'], files['classifier'])
    with np.load(tmp_path / 'samples' / 'samples.npz') as samples:
        np.testing.assert_array_equal(samples['arr_1'], [3, 5] * 10)
        batches = [model.sample(16, [3, 5] * 8, first=i, scale=5.0, **STEPS).images for i in (0, 16)]
        np.testing.assert_array_equal(samples['arr_0'], np.concatenate(batches)[:20])


def test_a_second_model_is_the_weak_one(files, tmp_path, capfd):
    networks = pretrained(files, diffusion='diffusion')
    change = {'sample__guidance': 'auto:scale=2', 'sample__num_samples': 8, 'sample__unguided': False}
    weak = tmp_path / 'weak.safetensors'
    save_weights(weak, describe_stored(files['diffusion']), random_params(read_experiment().unet, 5))
    assert run(tmp_path, 'sample', **networks, **change, sample__weak=weak) == 0
    model = generation.load(files['diffusion'], weak=weak)
    images = model.sample(8, guidance='auto:scale=2', **STEPS).images
    with np.load(next((tmp_path / 'samples').rglob('samples.npz'))) as samples:
        np.testing.assert_array_equal(samples['arr_0'], images)
    save_weights(weak, describe_stored(files['diffusion']), random_params(read_experiment().unet, 6))
    assert run(tmp_path, 'sample', **networks, **change, sample__weak=weak) == 0
    assert len([*(tmp_path / 'samples').rglob('samples.npz')]) == 2  # other weights, other samples
    assert run(tmp_path, 'sample', **networks, **change, sample__weak=files['linear']) == 2
    assert 'schedule' in capfd.readouterr().err


def test_the_setting_of_a_wrong_path_is_named():
    with refused('config.sample.weak: runs/typo', 'no such file'):
        check_network(make_run(sample__guidance='auto', sample__weak='runs/typo'), 'weak')


def test_another_file_makes_other_samples(files, tmp_path):
    change = {'sample__unguided': False, 'sample__scale': 0, 'sample__num_samples': 8}
    assert run(tmp_path, 'sample', **pretrained(files, diffusion='diffusion'), **change) == 0
    copy = tmp_path / 'copy.safetensors'
    stored = models.param_shapes(generation.load(files['diffusion']).unet)
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.05, np.float32), stored)
    model = generation.load(files['diffusion'])
    save_weights(copy, Spec(model.unet, model.diffusion), weights)
    assert run(tmp_path, 'sample', pretrained__diffusion=copy, **change, sample__npz=False) == 0
    assert len(list((tmp_path / 'samples').rglob('grid.png'))) == 2
    assert len(list((tmp_path / 'samples').rglob('samples.npz'))) == 1


@pytest.mark.parametrize(
    ('network', 'name', 'found', 'remedy'),
    [
        ('diffusion', 'classifier', 'classifier', 'diffusion'),
        ('diffusion', 'linear', 'schedule is linear', 'settings of its training'),
        ('classifier', 'seven', 'num_classes is 7', 'train_classifier'),
        ('classifier', 'classifier_linear', 'schedule is linear', ''),
        ('classifier', 'diffusion', 'diffusion', 'classifier'),
    ],
)
def test_files_that_do_not_fit_the_config(files, network, name, found, remedy):
    with pytest.raises(UserError) as error:
        check_network(make_run(**pretrained(files, **{network: name})), network)
    assert error.value.where == str(files[name])
    assert found in error.value.problem and remedy in error.value.remedy
    check_network(make_run(stages=('train', 'train_classifier')), network)  # the run itself trains it


def test_the_size_of_the_training_is_named(files):
    larger = {'data__name': 'folder', 'data__path': 'elsewhere', 'data__num_classes': 10}
    larger['data__image_size'] = (16, 16)
    run = make_run(**pretrained(files, diffusion='diffusion'), **larger)
    with refused('diffusion.safetensors', 'config.data.image_size=8,8', '--workdir'):
        check_network(run, 'diffusion')


def test_images_that_sampling_does_not_read_are_reported(tmp_path, caplog):
    images = {'classes': ['cat', 'dog'], 'count': 1200, 'identity': ''}
    write_stamp(tmp_path / 'diffusion', {'images': images})
    caplog.set_level('INFO')
    other = {'data__name': 'folder', 'data__path': 'elsewhere', 'data__num_classes': 10}
    report_unread_images(make_run(tmp_path))
    report_unread_images(make_run(tmp_path, ('train', 'sample'), **other))
    assert not caplog.messages
    report_unread_images(make_run(tmp_path, ('sample',), **other))
    (message,) = caplog.messages
    for part in ('config.data', str(tmp_path / 'diffusion'), '1,200', 'cat, dog'):
        assert part in message


def test_the_check_of_sampling_names_the_file_and_its_classes(files, tmp_path, caplog):
    caplog.set_level('INFO')
    weights = pretrained(files, diffusion='diffusion') | {'data__path': 'elsewhere', 'sample__scale': 0}
    sample.check(make_run(tmp_path, ('sample',), **weights))
    assert str(files['diffusion']) in caplog.messages[-1] and 'elsewhere' not in caplog.messages[-1]


def test_a_folder_of_another_process_is_refused(experiment, tmp_path):
    state = init_state(random_params(experiment.unet, 0), TRAIN, 50, jax.random.key(0))
    process = dataclasses.replace(experiment.diffusion, prediction='eps')
    with Checkpoints(tmp_path / 'trained' / 'checkpoints') as checkpoints:
        checkpoints.save(state, {}, models.describe_network(experiment.unet))
    write_stamp(tmp_path / 'trained', {'diffusion': dataclasses.asdict(process)})
    change = {'pretrained__diffusion': tmp_path / 'trained', 'sample__ema_rate': 0.9}
    with pytest.raises(UserError) as error:
        check_network(make_run(**change), 'diffusion')
    assert 'prediction is eps' in error.value.problem
    check_network(make_run(**change, diffusion__prediction='eps'), 'diffusion')
    with pytest.raises(UserError) as error:
        change['sample__ema_rate'] = 0.5
        check_network(make_run(**change, diffusion__prediction='eps'), 'diffusion')
    assert 'ema_0.5' in str(error.value)


@pytest.mark.parametrize(
    ('rates', 'given', 'used'),
    [('0.9,0.999,0.99', None, 0.999), ('()', None, 0.0), ('0.9,0.99', 0.9, 0.9), ('0.9', 0.0, 0.0)],
)
def test_samples_are_drawn_with_the_slowest_average_by_default(rates, given, used):
    run = make_run(train__ema_rates=rates, sample__ema_rate=given)
    assert average_of(run, 'diffusion') == used and average_of(run, 'classifier') == 0.0


def test_a_pretrained_folder_is_sampled_with_its_own_slowest_average(files, tmp_path):
    trained = tmp_path / 'trained'
    write_stamp(trained, {'train': {'ema_rates': [0.9, 0.99]}, 'pretrained': ''})
    changes = {'workdir': tmp_path / 'run', 'pretrained__diffusion': trained}
    for stages, rate in ((('sample',), 0.99), (('train', 'sample'), 0.995)):
        assert average_of(make_run(stages=stages, **changes), 'diffusion') == rate
    write_stamp(tmp_path / 'run' / 'diffusion', {'pretrained': str(trained)})  # it was fine-tuned here
    assert average_of(make_run(stages=('sample',), **changes), 'diffusion') == 0.995
    assert average_of(make_run(pretrained__diffusion=files['diffusion']), 'diffusion') == 0.995


def test_a_file_may_be_moved(files, tmp_path, capfd):
    change = {'sample__unguided': False, 'sample__scale': 0, 'sample__num_samples': 8}
    assert run(tmp_path, 'sample', **pretrained(files, diffusion='diffusion'), **change) == 0
    moved = shutil.copy(files['diffusion'], tmp_path / 'moved.safetensors')
    assert run(tmp_path, 'sample', pretrained__diffusion=moved, **change) == 0
    assert 'sample: complete already' in capfd.readouterr().err


def test_fine_tuning_for_other_classes_initialises_the_head(files, experiment, tmp_path, capfd):
    change = {'train_classifier__learning_rate': 1e-12, 'train_classifier__validate_every': 0}
    assert run(tmp_path, 'train_classifier', **pretrained(files, classifier='seven'), **change) == 0
    assert ': head/pool/out/bias, head/pool/out/kernel' in capfd.readouterr().err
    tuned = ocp.StandardCheckpointer().restore(tmp_path / 'classifier' / 'checkpoints' / '4' / 'params')
    stored = load_weights(files['seven'])[1]
    new = models.init(experiment.classifier, jax.random.split(jax.random.key(0))[0])['head']['pool']['out']
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tuned['head']['pool']['out'], new)
    for part in ('encoder', 'middle', 'time_embedding'):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tuned[part], stored[part])
    np.testing.assert_allclose(tuned['head']['norm']['scale'], stored['head']['norm']['scale'], atol=1e-6)


@pytest.mark.slow
def test_fine_tuning_with_classes_of_a_model_that_had_none(files, tmp_path, capfd):
    change = {'unet__class_conditional': True, 'train__sample_every': 0, 'train__num_steps': 1}
    assert run(tmp_path, 'train', **pretrained(files, diffusion='diffusion'), **change) == 0
    assert '7 and 2 more): label_embedding/embedding' in capfd.readouterr().err


@pytest.mark.slow
def test_fine_tuning_with_label_dropout(files, tmp_path, capfd):
    """From a file that never had it; the folder remembers, and is sampled by configs that do not say it."""
    conditional = {'unet__class_conditional': True, 'train__num_steps': 1, 'train__sample_every': 0}
    dropping = conditional | pretrained(files, diffusion='conditional') | {'unet__label_dropout': 0.5}
    assert run(tmp_path, 'train', **dropping) == 0
    assert 'label_embedding' not in capfd.readouterr().err
    folder = tmp_path / 'diffusion'
    assert describe_stored(files['conditional']).network.label_dropout == 0
    assert describe_stored(folder).network.label_dropout == 0.5
    assert generation.load(folder).unet.label_dropout == 0.5
    sample = {'sample__scale': 0, 'sample__num_samples': 8, 'pretrained__diffusion': folder}
    assert run(tmp_path / 'other', 'sample', **conditional, **sample) == 0
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


@pytest.mark.parametrize('classes', [tuple('0123456789'), tuple('9876543210'), ()])
def test_fine_tuning_keeps_the_label_embedding_of_the_same_classes(experiment, tmp_path, classes):
    """It starts again if the same labels mean other classes."""
    network = dataclasses.replace(experiment.unet, num_classes=10)
    params = random_params(network, 0)
    path = tmp_path / 'named.safetensors'
    save_weights(path, Spec(network, experiment.diffusion, classes=tuple('0123456789')), params)
    start = load_start(path, network, classes, jax.random.key(0), make_mesh())
    same = classes != tuple('9876543210')
    kept = np.array_equal(start['label_embedding']['embedding'], params['label_embedding']['embedding'])
    assert kept == same
    np.testing.assert_array_equal(start['conv_out']['kernel'], params['conv_out']['kernel'])


def test_a_fine_tuned_network_takes_precedence_over_its_start(files, tmp_path):
    """Stamps of older versions have the path of the start as it was typed."""
    given = Pretrained(diffusion=str(tmp_path / 'start'), classifier=str(files['classifier']))
    for name in ('diffusion', 'classifier'):
        assert find_network(tmp_path, name, Pretrained()) == tmp_path / name
        assert find_network(tmp_path, name, given) == Path(getattr(given, name))
    for start in (str(tmp_path / 'start'), f'{tmp_path}/start/'):
        write_stamp(tmp_path / 'diffusion', {'pretrained': start})
        assert find_network(tmp_path, 'diffusion', given) == tmp_path / 'diffusion'
    write_stamp(tmp_path / 'classifier', {'pretrained': start_stamp(str(files['classifier']))})
    assert find_network(tmp_path, 'classifier', given) == tmp_path / 'classifier'
    write_stamp(tmp_path / 'classifier', {'pretrained': start_stamp(str(files['seven']))})
    assert find_network(tmp_path, 'classifier', given) == files['classifier']


def test_networks_of_other_classes_are_refused(experiment, tmp_path):
    conditional = dataclasses.replace(experiment.unet, num_classes=10)
    given = {}
    for name, network, classes in (
        ('diffusion', conditional, tuple('0123456789')),
        ('classifier', experiment.classifier, tuple('0123456798')),
    ):
        given[f'pretrained__{name}'] = tmp_path / f'{name}.safetensors'
        spec = Spec(network, experiment.diffusion, classes=classes)
        save_weights(given[f'pretrained__{name}'], spec, random_params(network, 0))
    with pytest.raises(UserError) as error:
        check_classes(make_run(stages=('sample',), unet__class_conditional=True, **given))
    assert error.value.where == str(given['pretrained__classifier']) and "'9'" in str(error.value)
    check_classes(make_run(stages=('sample',), **given))  # without classes of its own
    # A classifier that will be trained has the classes of the images.
    del given['pretrained__classifier']
    stages = {'workdir': tmp_path / 'run', 'stages': ('train_classifier',), 'unet__class_conditional': True}
    check_classes(make_run(**stages, **given))
    save_weights(
        given['pretrained__diffusion'],
        Spec(conditional, experiment.diffusion, classes=tuple('9876543210')),
        random_params(conditional, 0),
    )
    with pytest.raises(UserError) as error:
        train_classifier.check(make_run(**stages, **given))
    assert error.value.where == 'config.data'
    write_stamp(tmp_path / 'run' / 'classifier', {'images': {'classes': list('9876543210')}})
    check_classes(make_run(**stages, **given))  # it resumes, with the classes that it was trained with

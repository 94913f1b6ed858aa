"""What a folder was made with, by this version or an older one, compared with the present settings."""

import copy
import dataclasses
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.stages import stamps
from diffusion_jax.training.config import OUTSIDE_THE_RESULT
from diffusion_jax.workdir import normalise, read_stamp, write_stamp
from tests.versions import STAMPS


@dataclass(frozen=True)
class Network:
    channels: int
    mult: tuple[int, ...]


def test_stamp_is_written_once_and_compared(tmp_path):
    stamp = {'seed': 0, 'unet': Network(8, (1, 2))}
    stamps.check_stamp(tmp_path, stamp)
    write_stamp(tmp_path, stamp)
    stamps.check_stamp(tmp_path, stamp)
    with pytest.raises(UserError) as caught:
        stamps.check_stamp(tmp_path, {'seed': 1, 'unet': Network(16, (1, 2))}, 'the remedy')
    error = caught.value
    assert (error.where, error.remedy) == (str(tmp_path), 'the remedy')
    assert 'unet.channels: had 8, now 16' in error.problem and 'seed: had 0, now 1' in error.problem
    assert 'mult' not in error.problem


def test_a_message_names_a_few_settings(tmp_path):
    write_stamp(tmp_path, {'a': {str(i): 0 for i in range(10)}})
    for changed, more in ((8, ''), (9, 'and 1 more'), (10, 'and 2 more')):
        with pytest.raises(UserError) as caught:
            stamps.check_stamp(tmp_path, {'a': {str(i): int(i < changed) for i in range(10)}})
        assert caught.value.problem.count('now') == 8 and more in caught.value.problem
        assert ('more' in caught.value.problem) == bool(more)


def test_an_empty_section_is_shown_as_it_is():
    assert stamps.stamp_difference({'a': {}}, {'a': {'b': 1}}) == {'a.b': (stamps.NOT_SET, 1)}
    assert stamps.stamp_difference({'a': {'b': 1}}, {'a': {'b': {}}}) == {'a.b': (1, {})}


trees = st.dictionaries(
    st.text('abc', min_size=1, max_size=2),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.tuples(inner, inner) | st.dictionaries(st.text('abc', min_size=1, max_size=2), inner)
        ),
        max_leaves=6,
    ),
)


@given(trees)
def test_a_stamp_is_that_of_the_same_settings(settings):
    assert stamps.stamp_difference(json.loads(json.dumps(normalise(settings))), settings) == {}


@given(trees, st.sampled_from('abc'), st.integers(), st.integers())
def test_every_setting_that_both_have_is_compared(settings, key, old, new):
    stored, stamp = ({'x': settings | {key: value}} for value in (old, new))
    assert (stamps.stamp_difference(stored, stamp) == {}) == (old == new)


DEFAULTS = [
    (section, config, field)
    for section, config in [
        *stamps.SECTIONS.items(),
        *(('network', kind) for kind in stamps.NETWORKS.values()),
    ]
    for field in dataclasses.fields(config)
    if field.default is not dataclasses.MISSING
]


@pytest.mark.parametrize(
    ('section', 'config', 'field'), DEFAULTS, ids=lambda value: getattr(value, '__name__', None)
)
def test_a_setting_that_an_older_stamp_lacks_had_its_default(section, config, field):
    """Every setting of every config in turn."""
    fields = [each for each in dataclasses.fields(config) if each.default is not dataclasses.MISSING]
    stamp = {section: {each.name: each.default for each in fields}}
    stamp[section] |= {'kind': config.__name__}
    older = copy.deepcopy(stamp)
    del older[section][field.name]
    assert stamps.stamp_difference(older, stamp) == {}
    stamp[section][field.name] = 'another value'
    key = f'{section}.{field.name}'
    assert stamps.stamp_difference(older, stamp) == {key: (normalise(field.default), 'another value')}


def config_of(section, settings):
    """The dataclass of a stamp's section; None where it holds no settings."""
    if section == 'network':
        return stamps.NETWORKS[settings['kind']]
    config = stamps.SECTIONS.get(section)
    known = {field.name for field in dataclasses.fields(config)} if config else set()
    return config if isinstance(settings, dict) and known & settings.keys() else None


STORED = [
    pytest.param(path, section, field, id=f'{path.parent.name}-{section}.{field.name}')
    for path in STAMPS
    for section, settings in read_stamp(path.parent).items()
    if (config := config_of(section, settings))
    for field in dataclasses.fields(config)
    if field.name in settings
]


@pytest.mark.parametrize(('path', 'section', 'field'), STORED)
def test_a_stored_stamp_without_a_setting_had_its_default(path, section, field):
    """A setting without a default cannot be assumed: its absence is always a difference."""
    stamp = read_stamp(path.parent)
    older = copy.deepcopy(stamp)
    del older[section][field.name]
    key = f'{section}.{field.name}'
    assert stamps.stamp_difference(stamp, stamp) == {}
    if field.default is dataclasses.MISSING:
        assert stamps.stamp_difference(older, stamp) == {key: (stamps.NOT_SET, stamp[section][field.name])}
        return
    stamp[section][field.name] = field.default
    assert stamps.stamp_difference(older, stamp) == {}
    stamp[section][field.name] = 'another value'
    assert stamps.stamp_difference(older, stamp) == {key: (normalise(field.default), 'another value')}


def test_settings_without_a_default():
    """All stamps have these two. A new setting needs a default, and no `default_factory`: otherwise every
    run of an older version is refused."""
    configs = {*stamps.SECTIONS.values(), *stamps.NETWORKS.values()}
    without = {
        f'{config.__name__}.{field.name}'
        for config in configs
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING
    }
    # num_steps is in no stamp.
    assert without == {'DataConfig.name', 'TrainConfig.batch_size', 'TrainConfig.num_steps'}
    assert 'num_steps' in OUTSIDE_THE_RESULT


def test_a_network_of_an_unknown_kind_is_another_one():
    stored, stamp = {'network': {'kind': 'Unknown'}}, {'network': {'kind': 'UNetConfig', 'dropout': 0.0}}
    assert stamps.stamp_difference(stored, stamp)['network.kind'] == ('Unknown', 'UNetConfig')
    assert stamps.stamp_difference({'network': {}}, stamp)['network.kind'][0] == stamps.NOT_SET


def test_what_was_not_recorded_is_not_compared():
    assert stamps.stamp_difference({'seed': 0}, {'seed': 0, 'images': {'count': 12}}) == {}


def test_a_setting_that_is_gone_is_not_compared():
    assert stamps.stamp_difference({'data': {'gone': 1, 'name': 'x'}}, {'data': {'name': 'x'}}) == {}


def test_a_network_from_elsewhere_is_another_one():
    folder, file = {'folder': 'diffusion', 'step': 3}, {'weights': '', 'digest': '0123'}
    difference = stamps.stamp_difference({'diffusion': folder}, {'diffusion': file})
    assert difference['diffusion.digest'] == (stamps.NOT_SET, '0123')


def test_a_path_is_the_same_however_it_was_typed():
    stored = {'sample': {'labels': './of/labels.npy'}, 'url': 'gs://a//b/'}
    assert (
        stamps.stamp_difference(stored, {'sample': {'labels': 'of//labels.npy'}, 'url': 'gs://a//b/'}) == {}
    )
    other = {'sample': {'labels': 'of/others.npy'}, 'url': 'gs://a/b/'}
    assert stamps.stamp_difference(stored, other).keys() == {'sample.labels', 'url'}


def test_samples_of_an_older_version_are_those_of_the_defaults():
    """Without the settings that the language of samplers and guidances brought."""
    older = {'sampler': 'ddim', 'respacing': 'ddim5', 'eta': 0.5, 'scale': 2.0, 'clip': True}
    sample = dataclasses.asdict(SampleConfig(**older))
    assert {'timesteps', 'guidance', 'recipe'} <= sample.keys() - older.keys()
    assert stamps.stamp_difference({'sample': older}, {'sample': sample}) == {}
    sample |= {'guidance': 'classifier/reuse:every=2', 'timesteps': 'nearest'}
    assert stamps.stamp_difference({'sample': older}, {'sample': sample}) == {
        'sample.guidance': ('classifier', 'classifier/reuse:every=2'),
        'sample.timesteps': ('fractional', 'nearest'),
    }


def test_a_folder_of_another_guidance(tmp_path):
    write_stamp(tmp_path, {'sample': {'guidance': 'classifier', 'sampler': 'ddim'}})
    stamp = {'sample': {'guidance': 'classifier:scale=2/reuse:every=2', 'sampler': 'ddim:eta=0.5'}}
    folder = stamps.locate(tmp_path, 'sample', stamp).directory
    assert folder == tmp_path / 'guidance=classifier-scale=2-reuse-every=2,sampler=ddim-eta=0.5'


def test_results_are_in_a_folder_named_after_settings_and_checkpoint(tmp_path):
    def folder(step, scale):
        stamp = {'sample': {'scale': scale}, 'diffusion': {'folder': 'diffusion', 'step': step}}
        return stamps.locate(tmp_path, 'sample', stamp)

    write_stamp(*folder(30, 1.0))
    assert folder(30, 1.0)[0] == tmp_path
    assert folder(30, 2.0)[0] == tmp_path / 'scale=2.0'
    assert folder(40, 1.0)[0] == tmp_path / 'diffusion.step=40'
    assert set(folder(50, 2.0)[0].name.split(',')) == {'diffusion.step=50', 'scale=2.0'}
    write_stamp(*folder(50, 2.0))
    assert folder(50, 2.0)[0].name.count('=') == 2


def test_results_that_differ_only_in_what_names_no_folder_are_apart(tmp_path):
    def located(weak):
        stamp = {'sample': {'guidance': 'auto'}, 'weak': {'weights': weak}}
        return stamps.locate(tmp_path, 'sample', stamp)

    write_stamp(tmp_path, {'sample': {'guidance': ''}})
    for weak in 'abc':
        write_stamp(*located(weak))
    folders = [located(weak).directory.name for weak in 'abc']
    assert len(set(folders)) == 3 and all(name.startswith('guidance=auto') for name in folders)


def test_a_name_is_a_folder_of_one_stamp(tmp_path):
    stamp = {'sample': {'scale': 2.0}}
    assert stamps.locate(tmp_path, 'sample', stamp, 'mine').directory == tmp_path / 'mine'
    write_stamp(tmp_path, {'sample': {'scale': 1.0}})
    write_stamp(*stamps.locate(tmp_path, 'sample', stamp, 'mine'))
    with pytest.raises(UserError) as caught:
        stamps.locate(tmp_path, 'sample', {'sample': {'scale': 3.0}}, 'mine')
    assert caught.value.where == str(tmp_path / 'mine')


def test_long_names_are_shortened_and_stay_different(tmp_path):
    write_stamp(tmp_path, {'sample': {'guidance': ''}})
    long = [{'sample': {'guidance': 'reconstruction+' * 10 + end}} for end in 'ab']
    names = [stamps.locate(tmp_path, 'sample', stamp).directory.name for stamp in long]
    assert names[0] != names[1] and max(map(len, names)) < 80

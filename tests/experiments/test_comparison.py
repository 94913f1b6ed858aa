"""The comparison with the authors' code: its flags, its processes and its tables, without PyTorch."""

import json
import shlex
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from benchmarking import comparison
from benchmarking.comparison import Comparison, Limits
from benchmarking.entries import Entry, entries_of
from benchmarking.flags import FILES, flags_of
from benchmarking.kernel_kinds import OTHER, kind_of
from benchmarking.programs import read
from benchmarking.tables import markdown, ratio

from experiments import benchmark

CONFIGS = Path(__file__).parents[2] / 'configs'
ADM_64, ADM_256 = (str(CONFIGS / f'{name}.py') for name in ('imagenet64', 'imagenet256'))
# Of the authors' README.
FLAGS = {
    ADM_64: (
        '--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 '
        '--image_size 64 --learn_sigma True --noise_schedule cosine --num_channels 192 '
        '--num_head_channels 64 --num_res_blocks 3 --resblock_updown True --use_new_attention_order True '
        '--use_fp16 True --use_scale_shift_norm True'
    ),
    ADM_256: (
        '--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 256 '
        '--learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 '
        '--num_res_blocks 2 --resblock_updown True --use_fp16 True --use_scale_shift_norm True'
    ),
}


@pytest.fixture
def checkout(tmp_path):
    """Files with the names of the authors' code."""
    folder = tmp_path / 'authors' / 'guided_diffusion'
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / f'{name}.py').touch()
    return folder.parent


@pytest.mark.parametrize(('config', 'depth'), [(ADM_64, 4), (ADM_256, 2)])
def test_flags_are_those_of_their_readme(config, depth):
    flags = flags_of(read(config, []), half=False)
    words = iter(shlex.split(FLAGS[config]))
    for name, value in zip(words, words, strict=True):
        assert str(flags['model'][name.removeprefix('--')]) == value
    assert flags['model']['channel_mult'] == ''
    assert flags['classifier']['classifier_depth'] == depth
    assert flags['classifier']['classifier_width'] == 128
    assert not flags['classifier']['classifier_use_fp16']
    assert (flags['respacing'], flags['scale'], flags['ddim']) == ('250', 1.0, False)
    assert flags['training'] == {'learning_rate': flags['training']['learning_rate'], 'weight_decay': 0.0} | {
        'ema_rates': [0.9999]
    }
    assert flags_of(read(config, []), half=True)['classifier']['classifier_use_fp16']


@pytest.mark.parametrize(
    ('config', 'setting', 'error'),
    [
        (ADM_64, 'data.num_classes=10', "config.data.num_classes: got 10; the authors' code has only 1000"),
        (
            ADM_64,
            'classifier.channel_mult=(1,2,3,5)',
            'config.classifier.channel_mult: got (1.0, 2.0, 3.0, 5.0)',
        ),
        (ADM_64, 'unet.label_dropout=0.1', 'config.unet.label_dropout: got 0.1'),
        (ADM_64, 'unet.channel_mult=(.5,2,3,4)', 'config.unet.channel_mult: got (0.5, 2.0, 3.0, 4.0)'),
        (ADM_64, 'unet.rescale_residual=True', 'config.unet.rescale_residual: got True'),
        (ADM_64, 'diffusion.loss=kl', "config.diffusion.loss: got 'kl'"),
        (ADM_64, 'diffusion.prediction=v', "config.diffusion.prediction: got 'v'"),
        (ADM_64, 'sample.sampler=heun', "config.sample.sampler: got 'heun'"),
        (ADM_64, 'sample.respacing=karras:18', "config.sample.respacing: got 'karras:18'"),
        (ADM_64, 'sample.scale=0', "config.sample.guidance: got 'classifier'"),
        (ADM_64, 'sample.clip=False', 'config.sample.clip: got False'),
        (str(CONFIGS / 'digits.py'), 'seed=0', 'config.data.image_size: got (8, 8)'),
        (str(CONFIGS / 'upsample_64_256.py'), 'seed=0', 'config.classifier: is missing'),
    ],
)
def test_what_the_authors_code_has_not(config, setting, error, checkout, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, 'has_torch', lambda python: True)
    assert benchmark.main([config, f'--against={checkout}', f'--config.{setting}']) == 2
    message = capsys.readouterr().err
    assert error in message
    assert message.count('\n') == 1


def test_no_checkout_and_no_torch(checkout, capsys):
    assert benchmark.main([f'--against={checkout.parent}']) == 2
    assert f'{checkout.parent} has no guided_diffusion/script_util.py' in capsys.readouterr().err
    assert benchmark.main([f'--against={checkout}', '--torch-python=no-such-python']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_rows_of_both_sides():
    entries = entries_of([ADM_256, ADM_64], [], None, Path('authors'))
    rows = [(entry.config, entry.part, f'{entry.side}, {entry.program}') for entry in entries]
    assert len(rows) == len(set(rows)) == 14
    assert rows[0] == ('imagenet256', 'guided_step', 'ours, defaults')
    assert {entry.batch_size for entry in entries if entry.config == 'imagenet64'} == {64}
    compiled = [entry for entry in entries if not entry.ours and entry.job['compile']]
    assert compiled == entries[-4:]
    assert [entry.late for entry in compiled] == [False, False, True, True]
    # Half precision where it differs from the defaults: their classifier's.
    half = [entry for entry in entries if entry.program in ('bfloat16', 'float16')]
    assert {(entry.side, entry.part) for entry in half} == {('authors', 'guided_step')}


def entry_of(program, side='authors', part='guided_step', compile=False, **more):
    return Entry('adm', 2, part, side, program, {'compile': compile}, side == 'ours', **more)


class Fake:
    """A process that answers from a script: (row, question) → answer."""

    script: ClassVar[dict] = {}
    asked: ClassVar[list] = []

    def __init__(self, module, job, env, log, python=''):
        self.name, self.answers = log.stem, []

    def send(self, do, **arguments):
        self.asked.append((self.name, do))
        default = {'seconds': [0.5, 0.5], 'memory_bytes': 10, 'free_bytes': 100, 'kinds': {}}
        answer = self.script.get((self.name, do), default)
        self.answers.append(answer.pop(0) if isinstance(answer, list) else dict(answer))

    def answer(self, until):
        return self.answers.pop(0)

    def ask(self, until, do, **arguments):
        self.send(do, **arguments)
        return self.answer(until)

    def close(self):
        self.asked.append((self.name, 'close'))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a comparison of fake processes; returns what they were asked."""

    def run(entries, script, budget=60.0):
        Fake.script, Fake.asked = script, []
        monkeypatch.setattr(comparison, 'Worker', Fake)
        monkeypatch.setattr(Comparison, 'measure_first_image', lambda self: None)
        Comparison(entries, Limits(budget, 10, 1), sys.executable, tmp_path, lambda: None).run()
        return Fake.asked

    return run


OURS, THEIRS = 'adm-guided_step-ours-defaults', 'adm-guided_step-authors-released'
ERROR = {'error': 'ValueError: no', 'memory': False}
NO_MEMORY = {'error': 'out of memory', 'memory': True}


def test_programs_have_their_turns(run):
    entries = [entry_of('defaults', 'ours'), entry_of('released')]
    asked = run(entries, {(OURS, 'time'): {'seconds': [0.2, 0.4]}})
    assert [name for name, do in asked if do == 'time'] == [OURS, THEIRS] * 5
    assert entries[0].seconds == [0.2, 0.4] * 5
    assert [entry.how for entry in entries] == ['in turn', 'in turn']
    assert asked[-2:] == [(OURS, 'close'), (THEIRS, 'close')]


@pytest.mark.parametrize(
    'script',
    [
        {(THEIRS, 'load'): {'free_bytes': 11}},  # less than 10 bytes and a margin
        {(OURS, 'load'): [NO_MEMORY, {}]},
    ],
)
def test_what_does_not_fit_runs_alone(script, run):
    entries = [entry_of('defaults', 'ours'), entry_of('released')]
    asked = run(entries, script)
    assert [entry.how for entry in entries] == ['alone', 'alone']
    assert [len(entry.seconds) for entry in entries] == [10, 10]
    # Theirs has given the device back before ours is loaded.
    assert asked.index((THEIRS, 'close')) < len(asked) - 1 - asked[::-1].index((OURS, 'load'))


def test_without_time_the_last_rows_are_missing(run):
    entries = [entry_of('defaults', 'ours'), entry_of('compiled', part='train', compile=True)]
    run(entries, {}, budget=0.0)
    assert all(entry.error for entry in entries)


def test_kinds_of_kernels():
    kinds = {
        'sm80_xmma_dgrad_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_cudnn': 'convolutions',
        'void implicit_convolve_sgemm<float, float, 1024>': 'float32 convolutions on CUDA cores',
        'nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT': 'matrix products',
        'ampere_sgemm_128x64_nn': 'float32 matrix products on CUDA cores',
        'cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16': 'attention',
        'loop_concatenate_fusion': 'copies, concatenations, transposes',
        'input_convert_reduce_fusion_3': 'reductions, normalization',
        'loop_add_fusion': 'elementwise',
        'unknown_kernel': OTHER,
    }
    assert {kernel: kind_of(kernel) for kernel in kinds} == kinds


def test_tables():
    profile = {'kinds': {'convolutions': 3.0, 'attention': 1.0}, 'step_milliseconds': 5.0}
    ours = entry_of('defaults', 'ours', 'train', seconds=[0.1, 0.2, 0.4], how='in turn')
    ours.answers = {'profile': profile, 'flops': {'flops': 4e12}}
    theirs = entry_of('released', part='train', seconds=[0.5], how='in turn')
    failed = entry_of('compiled', part='train', error='out of memory')
    rows = [vars(ours), vars(theirs), vars(failed)]
    assert ratio(rows, vars(theirs), 'defaults') == 2.5
    assert ratio(rows, vars(theirs), 'bfloat16') is ratio(rows, vars(ours), 'defaults') is None
    report = {
        'rows': json.loads(json.dumps(rows)),
        'seconds': 100.0,
        'matrix': {'size': 8192, 'flops_per_second': 4e13, 'device': 'GPU'},
        'first_image': {'config': 'adm', 'cold': {'error': 'time ran out'}},
    }
    text = markdown(report)
    assert '| 2.50× | – | in turn |' in text
    assert '| – | out of memory |' in text
    assert '| convolutions | 3.0 (75%) |' in text
    assert '20 TFLOP/s, 50% of that' in text
    assert 'adm, cold time ran out' in text

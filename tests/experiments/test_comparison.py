"""The comparison with the authors' code: its flags, its processes and its tables, without PyTorch."""

import json
import shlex
import sys
import time
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
from benchmarking.workers import Worker

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


def test_their_flags_of_other_settings():
    settings = ['unet.channel_mult=(1,2)', 'unet.attention_resolutions=()', 'unet.remat=True']
    settings += ['sample.sampler=ddim', 'sample.respacing=ddim25', 'diffusion.loss=rescaled_mse']
    flags = flags_of(read(ADM_64, [f'--config.{setting}' for setting in settings]), half=False)
    assert flags['model']['channel_mult'] == '1,2'
    # The side of no level: 64 divided by it is no factor by which a level is smaller.
    assert 64 // int(flags['model']['attention_resolutions']) == 0
    assert flags['model']['use_checkpoint'] and flags['model']['rescale_learned_sigmas']
    assert (flags['ddim'], flags['respacing']) == (True, 'ddim25')


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
        (ADM_64, 'classifier.norm_groups=16', 'config.classifier.norm_groups: got 16'),
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


@pytest.mark.parametrize(
    'script',
    [
        {(THEIRS, 'load'): ERROR},
        {(THEIRS, 'time'): ERROR},
        {(THEIRS, 'load'): NO_MEMORY},
    ],
)
def test_a_row_fails_alone(script, run):
    entries = [entry_of('defaults', 'ours'), entry_of('released')]
    run(entries, script)
    assert len(entries[0].seconds) == 10
    assert entries[1].seconds == [] and entries[1].error == script[next(iter(script))]['error']


def test_times_before_a_failure_stay(run):
    entries = [entry_of('defaults', 'ours'), entry_of('released')]
    run(entries, {(THEIRS, 'time'): [{'seconds': [1.0, 1.0]}, ERROR]})
    assert entries[1].seconds == [1.0, 1.0] and not entries[1].error


def test_without_time_the_last_rows_are_missing(run):
    entries = [entry_of('defaults', 'ours'), entry_of('compiled', part='train', compile=True)]
    run(entries, {}, budget=0.0)
    assert all(entry.error for entry in entries)


def test_a_process_answers_and_fails_in_one_line(tmp_path):
    (tmp_path / 'fake.py').write_text(
        'import os\n'
        'from benchmarking.protocol import serve\n'
        'def add(a, b):\n'
        '    os.write(1, b"a library prints")\n'
        '    return {"sum": a + b}\n'
        'def die():\n'
        '    os._exit(3)\n'
        'serve({"add": add, "die": die})\n'
    )
    worker = Worker('fake', {}, {'PYTHONPATH': str(tmp_path)}, tmp_path / 'log')
    until = time.monotonic() + 60
    assert worker.ask(until, 'add', a=1, b=2) == {'sum': 3}
    failed = worker.ask(until, 'add', a=1, b='2')
    assert failed['error'].startswith('TypeError: unsupported') and not failed['memory']
    assert 'a library prints' in failed['stderr'] and 'Traceback' in failed['stderr']
    assert 'ended with code 3' in worker.ask(until, 'die')['error']
    assert 'error' in worker.ask(until, 'add', a=1, b=2)
    worker.close()


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    (tmp_path / 'slow.py').write_text('import time\ntime.sleep(100)\n')
    worker = Worker('slow', {}, {'PYTHONPATH': str(tmp_path)}, tmp_path / 'log')
    assert worker.ask(time.monotonic(), 'load') == {'error': 'time ran out', 'memory': False}
    assert worker.process.returncode


@pytest.mark.parametrize(
    ('kind', 'kernels'),
    [
        (
            'convolutions',
            [
                'sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_cudnn',
                'sm80_xmma_dgrad_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_kernel__5x_cudnn',
                'void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad_optimized_bf16_128x128>',
            ],
        ),
        (
            'float32 convolutions on CUDA cores',
            [
                'sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_ffma_kernel__5x_cudnn',
                'void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1>',
            ],
        ),
        (
            'matrix products',
            [
                'nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT',
                'gemm_fusion_dot_12',
                'cutlass_80_tensorop_s1688gemm_128x128_16x5_nn_align4',
                'cublasLt::splitKreduce_kernel',
            ],
        ),
        (
            'float32 matrix products on CUDA cores',
            ['cutlass_80_simt_sgemm_128x128_8x4_nn_align1', 'ampere_sgemm_128x64_nn'],
        ),
        ('attention', ['cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16', 'triton_softmax_7']),
        (
            'copies, concatenations, transposes',
            [
                'void cudnn::ops::nchwToNhwcKernel<float>',
                'loop_concatenate_fusion',
                'wrapped_transpose',
                'MemcpyD2D',
            ],
        ),
        ('reductions, normalization', ['input_convert_reduce_fusion_3', 'group_norm_forward']),
        ('elementwise', ['loop_convert_fusion_1', 'fusion_12', 'loop_add_fusion']),
        (OTHER, ['unheard_of_kernel']),
    ],
)
def test_kinds_of_kernels(kind, kernels):
    assert {kernel: kind_of(kernel) for kernel in kernels} == dict.fromkeys(kernels, kind)


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

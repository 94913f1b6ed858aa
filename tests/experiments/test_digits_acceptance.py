"""The classifier of the acceptance script knows digits, and the script fails below the required agreement."""

import json

import digits_acceptance
import pytest

from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_npz


def test_a_run_of_real_digits_is_accepted_and_one_of_wrong_labels_is_not(tmp_path):
    test = digits_source('test')
    for folder, labels in (('samples', test.labels), ('samples/unguided', (test.labels + 1) % 10)):
        path = shard(tmp_path / folder / 'shards', 0, len(labels)).path
        write_npz(path, arr_0=test.images, arr_1=labels)
    assert digits_acceptance.main([str(tmp_path)]) == 0
    result = json.loads((tmp_path / 'agreement.json').read_text())
    assert result['label_agreement'] == result['judge_test_accuracy'] == pytest.approx(295 / 297)
    assert result['unguided_label_agreement'] < 0.01
    assert result['real_frechet_distance'] == pytest.approx(0.14, abs=0.01)
    assert digits_acceptance.main([str(tmp_path), '--required=0.999']) == 1

"""Times a step of the authors' code, for compare_authors.py. Prints one line of JSON.

Its argument is a job in JSON: the `path` of their checkout, `flags`, `classifier` (flags too), `batch_size`,
`part`, `repeats`, `half` (the classifier in float16 too) and `compile` (torch.compile of the networks). Needs
PyTorch and NumPy, nothing of this project, and of theirs nothing that needs MPI or blobfile.

Their training loop does more than is timed here: it copies images to the device, logs the loss of every
image, and wraps the network in DistributedDataParallel. That would only make it slower.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')
MOST_OVERFLOWS = 40  # steps that their loss scale may need to find a size that float16 can hold
MODULES = ('script_util', 'unet', 'nn', 'fp16_util', 'resample', 'logger')


def their_modules(path: str) -> SimpleNamespace:
    """The modules of a checkout that are used."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, path)
    found = {name: importlib.import_module(f'guided_diffusion.{name}') for name in MODULES}
    found['logger'].Logger.CURRENT = found['logger'].Logger(dir=None, output_formats=[])
    return SimpleNamespace(**found)


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """Kernels from N(0, 1/fan-in), as on our side: their zeros would stay zeros in a sampled network."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network


def guided_step(theirs: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """A step of their sampler: network, gradient of the classifier, noise, update."""
    flags, classifier_flags = flags_of(theirs, job)
    with DEVICE:
        network, process = theirs.script_util.create_model_and_diffusion(**flags)
        classifier = theirs.script_util.create_classifier(**classifier_flags)
    fill(network).eval().convert_to_fp16()
    fill(classifier).eval()
    if job['half']:
        classifier.convert_to_fp16()
    if job['compile']:
        # Compiled code would compute gradients of its parameters, which eager code leaves out.
        classifier.requires_grad_(False)
        network, classifier = torch.compile(network), torch.compile(classifier)
    x = torch.randn(job['batch_size'], 3, flags['image_size'], flags['image_size'], device=DEVICE)
    t = torch.full((len(x),), process.num_timesteps - 1, device=DEVICE)
    y = torch.arange(len(x), device=DEVICE)

    def gradient(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_probs = F.log_softmax(classifier(x, t), dim=-1)
            return torch.autograd.grad(log_probs.gather(1, y[:, None]).sum(), x)[0]

    def step() -> bool:
        with torch.no_grad():
            process.p_sample(network, x, t, cond_fn=gradient, model_kwargs={'y': y})
        return True

    return step


def training_step(theirs: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """A step of their training: losses, gradients, loss scale, AdamW, average. It returns False if float16
    overflowed and the optimizer did nothing."""
    flags, _ = flags_of(theirs, job)
    with DEVICE:
        network, process = theirs.script_util.create_model_and_diffusion(**flags | {'timestep_respacing': ''})
    trainer = theirs.fp16_util.MixedPrecisionTrainer(model=fill(network), use_fp16=True)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=1e-4, weight_decay=0.0)
    average = copy.deepcopy(trainer.master_params)
    timesteps = theirs.resample.create_named_schedule_sampler('uniform', process)
    call = torch.compile(network) if job['compile'] else network
    side, batch_size = flags['image_size'], job['batch_size']
    x = torch.rand(batch_size, 3, side, side, device=DEVICE) * 2 - 1
    y = torch.arange(batch_size, device=DEVICE)

    def step() -> bool:
        trainer.zero_grad()
        t, weights = timesteps.sample(batch_size, DEVICE)
        losses = process.training_losses(call, x, t, model_kwargs={'y': y})
        trainer.backward((losses['loss'] * weights).mean())
        updated = trainer.optimize(optimizer)
        if updated:
            theirs.nn.update_ema(average, trainer.master_params, rate=0.9999)
        return updated

    return step


def flags_of(theirs: SimpleNamespace, job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All flags of both their networks: theirs by default, and those of the job."""
    util = theirs.script_util
    classifier = util.classifier_defaults() | job['classifier'] | {'classifier_use_fp16': job['half']}
    return util.model_and_diffusion_defaults() | job['flags'] | {'use_fp16': True}, classifier


def synchronize() -> None:
    """Waits for the device."""
    if CUDA:
        torch.cuda.synchronize()


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of `repeats` steps after the first one that takes effect, and the most memory reserved."""
    theirs = their_modules(job['path'])
    if job['compile']:
        # Their recomputation of attention breaks the graph in every block; without it there is one graph.
        theirs.unet.checkpoint = lambda function, inputs, params, flag: function(*inputs)
    step = (training_step if job['part'] == 'train' else guided_step)(theirs, job)
    any(step() for _ in range(MOST_OVERFLOWS))
    seconds = []
    for _ in range(job['repeats']):
        synchronize()
        called = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - called)
    memory = torch.cuda.max_memory_reserved() if CUDA else None
    return {'seconds': seconds, 'memory_bytes': memory, 'torch': torch.__version__}


if __name__ == '__main__':
    print(json.dumps(main(json.loads(sys.argv[1]))))

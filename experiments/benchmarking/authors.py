"""A step of the authors' code in a process of its own, which `comparison` starts and asks.

Its argument is a job in JSON: the `path` of their checkout, the flags of `model`, `classifier` and `training`
(see `flags`), `batch_size`, a `part` of STEPS, and `compile` for torch.compile of the networks. Needs
PyTorch and NumPy; imports nothing of this project but `protocol`, and of theirs nothing that needs MPI or
blobfile.

Their training loop does more than is timed here: it copies images to the device, logs the loss of every
image, and wraps the network in DistributedDataParallel. That would only make it slower.
"""

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
from benchmarking.protocol import serve

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


def forward(theirs: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """The diffusion model alone."""
    with DEVICE:
        network, _ = theirs.script_util.create_model_and_diffusion(**job['model'], timestep_respacing='')
    fill(network).eval()
    side, batch_size = job['model']['image_size'], job['batch_size']
    x = torch.randn(batch_size, 3, side, side, device=DEVICE)
    index = torch.arange(batch_size, device=DEVICE)
    y = index % theirs.script_util.NUM_CLASSES if job['model']['class_cond'] else None

    def step() -> bool:
        with torch.no_grad():
            network(x, index, y)
        return True

    return step


def guided_step(theirs: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """A step of their sampler: network, gradient of the classifier, noise, update."""
    create = theirs.script_util.create_model_and_diffusion
    with DEVICE:
        network, process = create(**job['model'], timestep_respacing=job['respacing'])
        classifier = theirs.script_util.create_classifier(**job['classifier'])
    for each, half in ((network, 'use_fp16'), (classifier, 'classifier_use_fp16')):
        fill(each).eval()
        if (job['model'] | job['classifier'])[half]:
            each.convert_to_fp16()
    if job['compile']:
        # Compiled code would compute gradients of its parameters, which eager code leaves out.
        classifier.requires_grad_(False)
        network, classifier = torch.compile(network), torch.compile(classifier)
    side, batch_size = job['model']['image_size'], job['batch_size']
    x = torch.randn(batch_size, 3, side, side, device=DEVICE)
    t = torch.full((batch_size,), process.num_timesteps - 1, device=DEVICE)
    y = torch.arange(batch_size, device=DEVICE) % theirs.script_util.NUM_CLASSES
    conditional = job['model']['class_cond']

    def gradient(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_probs = F.log_softmax(classifier(x, t), dim=-1)
            chosen = log_probs.gather(1, y[:, None]).sum()
            return torch.autograd.grad(chosen, x)[0] * job['scale']

    def denoise(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return network(x, t, y if conditional else None)

    sample = process.ddim_sample if job['ddim'] else process.p_sample

    def step() -> bool:
        with torch.no_grad():
            sample(denoise, x, t, cond_fn=gradient, model_kwargs={'y': y})
        return True

    return step


def training_step(theirs: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """A step of their training: losses, gradients, loss scale, AdamW, averages. It is false where float16
    overflowed, and the optimizer did nothing."""
    create = theirs.script_util.create_model_and_diffusion
    with DEVICE:
        network, process = create(**job['model'], timestep_respacing='')
    training = job['training']
    trainer = theirs.fp16_util.MixedPrecisionTrainer(model=fill(network), use_fp16=job['model']['use_fp16'])
    optimizer = torch.optim.AdamW(
        trainer.master_params, lr=training['learning_rate'], weight_decay=training['weight_decay']
    )
    averages = [copy.deepcopy(trainer.master_params) for _ in training['ema_rates']]
    timesteps = theirs.resample.create_named_schedule_sampler('uniform', process)
    call = torch.compile(network) if job['compile'] else network
    side, batch_size = job['model']['image_size'], job['batch_size']
    x = torch.rand(batch_size, 3, side, side, device=DEVICE) * 2 - 1
    y = torch.arange(batch_size, device=DEVICE) % theirs.script_util.NUM_CLASSES
    condition = {'y': y} if job['model']['class_cond'] else {}

    def step() -> bool:
        trainer.zero_grad()
        t, weights = timesteps.sample(batch_size, DEVICE)
        losses = process.training_losses(call, x, t, model_kwargs=condition)
        trainer.backward((losses['loss'] * weights).mean())
        updated = trainer.optimize(optimizer)
        for rate, average in zip(training['ema_rates'], averages, strict=True):
            if updated:
                theirs.nn.update_ema(average, trainer.master_params, rate=rate)
        return updated

    return step


def convolution(_: SimpleNamespace, job: dict[str, Any]) -> Callable[[], bool]:
    """A 3×3 convolution that keeps the size and the number of channels."""
    side, channels = job['side'], job['channels']
    x = torch.randn(job['batch_size'], channels, side, side, device=DEVICE)
    kernel = torch.randn(channels, channels, 3, 3, device=DEVICE)

    def step() -> bool:
        torch.conv2d(x, kernel, padding=1)
        return True

    return step


STEPS = {
    'forward': forward,
    'guided_step': guided_step,
    'train': training_step,
    'convolution': convolution,
}


class Authors:
    """The answers; the first to be asked for is `load`."""

    def __init__(self, job: dict[str, Any]):
        self.job, self.theirs, self.step = job, their_modules(job['path']), None
        if job['compile']:
            # Their recomputation of attention breaks the graph in every block; without it there is one graph.
            self.theirs.unet.checkpoint = lambda function, inputs, params, flag: function(*inputs)

    def load(self) -> dict[str, Any]:
        """Builds the networks on the device if there are none, and calls the step until it takes effect."""
        self.release()
        if self.step is None:
            self.step = STEPS[self.job['part']](self.theirs, self.job)
        try:
            any(self.step() for _ in range(MOST_OVERFLOWS))
        except Exception:
            self.step = None  # what it holds would be missing where it is tried again
            raise
        return self.memory()

    def release(self) -> dict[str, Any]:
        """Gives memory that is not used back to the device."""
        if CUDA:
            torch.cuda.empty_cache()
        return {}

    def time(self, calls: int) -> dict[str, Any]:
        """Times `calls` calls, after one that is not timed: another program may have run before."""
        self.step()
        seconds, updates = [], 0
        for _ in range(calls):
            synchronize()
            called = time.perf_counter()
            updates += self.step()
            synchronize()
            seconds.append(time.perf_counter() - called)
        return {'seconds': seconds, 'updates': updates} | self.memory()

    def memory(self) -> dict[str, Any]:
        """The bytes that PyTorch took, and those that the device has left; None on a CPU."""
        if not CUDA:
            return {'memory_bytes': None, 'free_bytes': None, 'torch': torch.__version__}
        return {
            'memory_bytes': torch.cuda.max_memory_reserved(),
            'free_bytes': torch.cuda.mem_get_info()[0],
            'torch': torch.__version__,
        }


def synchronize() -> None:
    """Waits for the device."""
    if CUDA:
        torch.cuda.synchronize()


if __name__ == '__main__':
    authors = Authors(json.loads(sys.argv[1]))
    serve({name: getattr(authors, name) for name in ('load', 'release', 'time')})

"""Measure one training step of convolutional nets, over the matrix products it cannot avoid and beside PyTorch.

    python bench/conv.py        # about two minutes; 600 MB of memory, no dataset: the data are random numbers

floor   the bare matrix products of an im2col convolution, on matrices that are ready: W M, G M^T and, except in the first
        layer, W^T G; those of the affine layer likewise
kbn     a whole step of kbn.minibatch_gd, without its evaluations, with a net of nets.build
torch   the same in PyTorch, eager, on the CPU, with the same record of loss, cost and accuracy

All run in float32, on mini-batches of 100, on 1 and on 2 threads; 2 threads need 2 idle cores. ms are milliseconds a step.
The process keeps the memory of large arrays, as the drivers' workers do (workers.KEEP_MEMORY).

The second table shows where kbn's step spends its time, on 1 thread, in % (medians over the steps); the rest is the affine
layer, the loss, the update and the gather. The third compares three backward passes of batch normalization on 1 thread:
gate by gate, in closed form, and as in kbn. Each returns dJ/dS and the gradients of gamma and beta, for S (m, n) of a layer
of 50 units and of 32 channels of 14 x 14. The fourth says how many times faster the forward pass of the convolution is as
matrix products (im2col) than as a loop over images, filters and places, for the first layer of the MNIST net and 10 images. It
writes results/bench_conv, bench_conv_shares, bench_conv_bn and bench_conv_naive (.md, .csv, .tex), and all numbers in
bench_conv.json.
"""

import math
import os
import sys
import time
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import timing  # makes the project importable

import kbn
import layers
import nets
from lab import settings, workers

K, N = 10, 2000
BASES = {  # name: the shape of an image, and (number, size) of the filters of each convolution, which keeps the image's size
    "MNIST": ((1, 28, 28), [(16, 5), (32, 5)]),
    "CIFAR": ((3, 32, 32), [(32, 3), (64, 3)]),
}
LABELS = {"conv": ("conv forward", "conv backward"), "bn": ("BN", "BN"), "max_pool": ("pooling", "pooling"),
          "relu": ("ReLU", "ReLU")}  # fmt: skip
BN_SHAPES = [(50, 100), (32, 19_600)]
FEW = 10  # images: a naive loop over a mini-batch would take seconds


def floor_steps(task):
    """Multiply the matrices of all layers, without end."""
    rng, products = np.random.default_rng(1), []
    for step in nets.steps_of(task.specs, task.shape):
        if "W" in step.kind.params:
            W = task.params[f"W{step.l}"].reshape(len(task.params[f"W{step.l}"]), -1)
            out, _ = step.kind.shapes(step.shape, *step.numbers)
            M, G = (rng.standard_normal((m, task.hp["n_batch"] * math.prod(out[1:])), np.float32) for m in W.shape[::-1])
            products += [(W, M, np.empty_like(G)), (G, M.T, np.empty_like(W))]
            products += [(W.T, G, np.empty_like(M))] * (step.l > 1)
    while True:
        for A, B, out in products:
            np.matmul(A, B, out=out)
        yield


def shares(task, steps):
    """Return {label: [% of each step of kbn]} for LABELS and the rest."""
    seconds = {label: 0.0 for labels in LABELS.values() for label in labels}

    def timed(label, function, *args, **options):
        start = time.perf_counter()
        result = function(*args, **options)
        seconds[label] += time.perf_counter() - start
        return result

    kinds = {name: nets.KINDS[name]._replace(forward=partial(timed, forward, nets.KINDS[name].forward),
                                             backward=partial(timed, backward, nets.KINDS[name].backward))
             for name, (forward, backward) in LABELS.items()}  # fmt: skip
    with patch.dict(nets.KINDS, kinds):
        watched = SimpleNamespace(**vars(task) | {"net": nets.build(task.specs, task.shape)})
    found, _ = timing.kbn_steps(watched, steps, clock=lambda: [*seconds.values(), time.perf_counter()])
    percent = 100 * found[:, :-1] / found[:, -1:]
    return dict(zip(seconds, percent.T.tolist())) | {"rest": (100 - percent.sum(axis=1)).tolist()}


def batch_norm_turns(m, n, rounds):
    """Return take_turns' numbers for three backward passes of BN on S (m, n). Raises AssertionError if they disagree."""
    rng = np.random.default_rng(2)
    S, G = rng.standard_normal((2, m, n), np.float32)
    gamma, beta = rng.standard_normal((2, m, 1), np.float32)
    _, cache = layers.batch_norm_forward(S, gamma, beta)
    mu, v, eps, S_hat, one = (*(cache[name] for name in ("mu", "v", "eps", "S_hat")), kbn.ones_n(G))
    passes = {
        "staged": lambda: layers.batch_norm_backward_staged(G, cache),
        "closed form": lambda: layers.batch_norm_backward(G, cache),
        "kbn": lambda: (kbn.batch_norm_backpass(G * gamma, S, mu, v, eps), G * S_hat @ one, G @ one),
    }
    for other in ("closed form", "kbn"):
        for a, b in zip(passes["staged"](), passes[other](), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3 * float(np.abs(a).max()), err_msg=other)
    calls = max(1, 2_000_000 // S.size)
    return timing.take_turns({name: partial(timing.time_calls, run, calls) for name, run in passes.items()}, rounds)


def naive_convolution(images, W, b, pad):
    """Return layers.conv_forward's output for stride 1, window by window."""
    padded = np.pad(images, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    kh, kw = W.shape[2:]
    out = np.empty((len(images), len(W), padded.shape[2] - kh + 1, padded.shape[3] - kw + 1), images.dtype)
    for n, f, i, j in np.ndindex(out.shape):
        out[n, f, i, j] = np.sum(padded[n, :, i : i + kh, j : j + kw] * W[f]) + b[f, 0]
    return out


def naive_turns(rounds):
    """Return take_turns' numbers for both convolutions of FEW images of MNIST. Raises AssertionError if they disagree."""
    rng, (shape, [(f, size), _]) = np.random.default_rng(3), BASES["MNIST"]
    images, W, b = (rng.standard_normal(sides, np.float32) for sides in ((FEW, *shape), (f, shape[0], size, size), (f, 1)))
    passes = {
        "naive loop": lambda: naive_convolution(images, W, b, size // 2),
        "im2col": lambda: layers.conv_forward(images, W, b, 1, size // 2)[0],
    }
    np.testing.assert_allclose(passes["im2col"](), passes["naive loop"](), rtol=1e-4, atol=1e-4)
    return timing.take_turns({name: partial(timing.time_calls, run, 1) for name, run in passes.items()}, rounds)


def main():
    opts = timing.options(__doc__, rounds=15, steps=2).parse_args()
    if not workers.KEEP_MEMORY.items() <= os.environ.items():  # glibc reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | workers.KEEP_MEMORY)
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    steps, parts, bn, raw = [], [], [], {}
    for base, (shape, filters) in BASES.items():
        for place in ("off", "before"):
            blocks = [[["conv", f, size, 1, size // 2], ["relu"], ["max_pool", 2]] for f, size in filters]
            specs = nets.with_bn(sum(blocks, []), place) + [["affine", K]]
            name, task = base + " BN" * (place == "before"), timing.make_task(specs, shape, N)
            for threads in (1, 2):
                label = f"{name}, {threads} thread(s)"
                with timing.threads(threads):
                    raw[label] = seconds = timing.race(label, task, floor_steps(task), opts.rounds, opts.steps)
                steps.append({
                    "net": name, "threads": threads,
                    **{f"{who}, ms": timing.median(seconds, who, 1e-3, digits=1) for who in ("floor", "kbn", "torch")},
                    "kbn / torch (aim: at most 1)": timing.ratio(seconds, "kbn", "torch"),
                    "kbn / floor": timing.ratio(seconds, "kbn", "floor"),
                    "600 steps (60,000 images), s": timing.median(seconds, "kbn", 1 / 600, digits=1),
                })  # fmt: skip
            with timing.threads(1):
                raw[f"{name}, %"] = percent = shares(task, opts.rounds * opts.steps)
            parts.append({"net": name} | {label: f"{np.median(part):.0f}" for label, part in percent.items()})
    for m, n in BN_SHAPES:
        with timing.threads(1):
            raw[f"BN {m} x {n}"] = seconds = batch_norm_turns(m, n, opts.rounds)
        bn.append({"S": f"{m} x {n}"} | {f"{name}, us": timing.median(seconds, name, 1e-6) for name in seconds})
    with timing.threads(1):
        raw["naive loop"] = seconds = naive_turns(opts.rounds)
    naive = [{
        "convolution": f"first layer of MNIST, {FEW} images",
        **{f"{name}, ms": timing.median(seconds, name, 1e-3, digits=1) for name in seconds},
        "times faster": timing.ratio(seconds, "naive loop", "im2col"),
    }]  # fmt: skip
    named = {"bench_conv": steps, "bench_conv_shares": parts, "bench_conv_bn": bn, "bench_conv_naive": naive}
    timing.report(folder, named, {"environment": environment, "steps": opts.steps, "numbers": raw})


if __name__ == "__main__":
    settings.run_main(main)

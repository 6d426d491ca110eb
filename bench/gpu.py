"""Measure training steps on a GPU: kbn on CuPy's arrays beside kbn on the CPU and PyTorch on the same GPU.

    pip install cupy-cuda12x        # the wheel for the machine's CUDA; also PyTorch with CUDA, for the comparison
    python bench/gpu.py             # no dataset: the data are random numbers

Every step ends when the GPU has finished it. ms are milliseconds per step, in float32. It writes results/bench_gpu.md, .csv,
.tex and .json (every round). docs/gpu.md shows how to train on a GPU.
"""

from types import SimpleNamespace

import timing  # makes the project importable

import kbn
import nets
from lab import settings
from lab.settings import UserError

NETS = {  # name: shape of an input, specs
    "3-layer BN": ((3072,), nets.with_bn(2 * [["affine", 50], ["relu"]]) + [["affine", 10]]),
    "3 x 1024 BN": ((3072,), nets.with_bn(3 * [["affine", 1024], ["relu"]]) + [["affine", 10]]),
    "3 x 4096 BN": ((3072,), nets.with_bn(3 * [["affine", 4096], ["relu"]]) + [["affine", 10]]),
    "CNN": ((3, 32, 32), [["conv", 32, 5, 1, 2], ["bn"], ["relu"], ["max_pool", 2], ["conv", 64, 5, 1, 2], ["bn"], ["relu"],
                          ["max_pool", 2], ["affine", 10]]),
}  # fmt: skip


def moved(task, asarray):
    """Return the same task with its arrays in another library."""
    params = {key: asarray(param) for key, param in task.params.items()}
    return SimpleNamespace(**vars(task) | {"X": asarray(task.X), "y": asarray(task.y), "params": params})


def measure(specs, shape, rounds, steps, cupy):
    """Return take_turns' numbers of one net."""
    task = timing.make_task(specs, shape, 20_000, kbn.MLP if len(shape) == 1 else None, bn="before")
    on_gpu = moved(task, cupy.asarray)

    def clock():
        cupy.cuda.Device().synchronize()
        return timing.clock()

    contestants = {
        "cpu": lambda: timing.kbn_steps(task, max(1, steps // 20))[0].mean(),
        "gpu": lambda: timing.kbn_steps(on_gpu, steps, clock)[0].mean(),
    }
    if timing.HAS_TORCH:
        rival = timing.torch_steps(task, "cuda")
        contestants["torch"] = lambda: timing.time_calls(rival.__next__, steps)
    return timing.take_turns(contestants, rounds)


def main():
    opts = timing.options(__doc__, rounds=7, steps=100).parse_args()
    try:
        import cupy

        device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except ImportError:
        raise UserError("CuPy is not installed; pip install cupy-cuda12x, or the wheel for your CUDA") from None
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"CuPy finds no GPU ({error})") from None
    folder, environment = settings.output_folder(opts, "results"), timing.environment() | {"gpu": device}
    rows, raw = [], {}
    for name, (shape, specs) in NETS.items():
        raw[name] = seconds = measure(specs, shape, opts.rounds, opts.steps, cupy)
        rows.append({"net": name}
                    | {f"{who}, ms": timing.median(seconds, who, 1e-3, 2) for who in ("cpu", "gpu", "torch")}
                    | {"cpu / gpu": timing.ratio(seconds, "cpu", "gpu"),
                       "torch / gpu (aim from 1024 on: at least 0.5)": timing.ratio(seconds, "torch", "gpu")})  # fmt: skip
    timing.report(folder, {"bench_gpu": rows}, {"environment": environment, "steps": opts.steps, "seconds": raw})


if __name__ == "__main__":
    settings.run_main(main)

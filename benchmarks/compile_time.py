"""Seconds until a training step is compiled, with an empty and a filled cache.

`python benchmarks/compile_time.py --models=vit_b16,vit_h14,resnet50`. Each measurement is a new
process; tracing is counted in.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import timing


def measure(name):
    """Compiles the training step of a model from shapes alone; prints the seconds."""
    import jax
    from ours import training

    model = training(name)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), model.batch(8))
    start = time.perf_counter()
    lowered = model.train_step.lower(model.abstract, batch)
    traced = time.perf_counter()
    lowered.compile()
    print(f"{traced - start:.2f} {time.perf_counter() - traced:.2f}")


def main():
    """Prints one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vit_b16,vit_h14,resnet50")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(timing.machine())
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, f"--measure={name}"]
            environment = {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            times = []
            for _ in range(3):  # the first with an empty cache
                out = subprocess.check_output(command, env=os.environ | environment, text=True)
                times.append([float(x) for x in out.split()[-2:]])
        (trace, cold), *cached = times
        print(
            f"{name}: trace {trace:.2f} s; compile {cold:.2f} s with an empty cache, "
            f"{min(c for _, c in cached):.2f} s from the cache",
            flush=True,
        )


if __name__ == "__main__":
    main()

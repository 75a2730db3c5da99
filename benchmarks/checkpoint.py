"""How long a save holds up training: ViT-B/16 with AdamW, random values, beside torch.save.

`python benchmarks/checkpoint.py`
"""

import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
from ours import training

from jaxvision.train.checkpoint import Checkpointer

POSITION = {"version": 1, "seed": 0, "num_examples": 1, "examples_seen": 0}


def random_state():
    """Returns the state of ViT-B/16 after many steps: moments that do not compress."""
    model = training("vit_b16")
    state = model.create()
    rng = np.random.default_rng(0)

    def noise(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(rng.standard_normal(x.shape, np.float32))

    return state.replace(opt_state=jax.tree.map(noise, state.opt_state)), model.abstract


def main():
    """Prints blocking and total seconds of saves, and of a restore."""
    print(timing.machine())
    state, abstract = random_state()
    leaves = [np.array(x) for x in jax.tree.leaves((state.params, state.opt_state))]
    gigabytes = sum(x.nbytes for x in leaves) / 1e9
    folder = pathlib.Path(tempfile.mkdtemp(dir="."))
    blocking, total, restoring, peer = [], [], [], []
    try:
        with Checkpointer(folder / "run") as checkpointer:
            for step in range(1, 6):
                jax.block_until_ready(state)
                start = time.perf_counter()
                checkpointer.save(step, state, POSITION)
                blocking.append(time.perf_counter() - start)
                checkpointer.wait()
                total.append(time.perf_counter() - start)
                start = time.perf_counter()
                torch.save([torch.from_numpy(x) for x in leaves], folder / "torch.pt")
                peer.append(time.perf_counter() - start)
            for _ in range(3):
                start = time.perf_counter()
                jax.block_until_ready(checkpointer.restore(abstract)[0])
                restoring.append(time.perf_counter() - start)
    finally:
        shutil.rmtree(folder)
    blocking, total, peer = blocking[1:], total[1:], peer[1:]  # the first one compiles
    print(
        f"{gigabytes:.2f} GB: a save blocks {_seconds(blocking)} "
        f"= {statistics.median(blocking) / gigabytes:.3f} s/GB; done after {_seconds(total)}; "
        f"restore {_seconds(restoring)}; torch.save blocks {_seconds(peer)}: "
        f"{statistics.median(peer) / statistics.median(blocking):.1f}x"
    )


def _seconds(values):
    return f"{statistics.median(values):.3f} s [{min(values):.3f}-{max(values):.3f}]"


if __name__ == "__main__":
    main()

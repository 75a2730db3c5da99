"""What the host pays for each step: our step, a bare jitted function, nnx.jit.

`python benchmarks/dispatch.py`. All three take and return the whole state of ViT-S/16 and compute
nothing, so that only the handling of the arguments is timed.
"""

import jax
import optax
import timing
from flax import nnx
from ours import training

CALLS = 20


def systems(**options):
    """Returns the calls by name; each handles the state of a step `CALLS` times."""
    ours_model = training("vit_s16", **options)
    state = ours_model.create()
    leaves = jax.tree.leaves(jax.tree.map(lambda x: x.copy(), state))
    model = ours_model.build(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)

    step = jax.jit(lambda state: state, donate_argnums=0)
    bare = jax.jit(lambda *leaves: leaves, donate_argnums=tuple(range(len(leaves))))
    objects = nnx.jit(lambda model, optimizer: None)

    def ours():
        nonlocal state
        for _ in range(CALLS):
            state = step(state)

    def flat():
        nonlocal leaves
        for _ in range(CALLS):
            leaves = bare(*leaves)

    def nnx_jit():
        for _ in range(CALLS):
            objects(model, optimizer)

    return {"our step": ours, "bare jit": flat, "nnx.jit": nnx_jit}


def main():
    """Prints microseconds per call."""
    print(timing.machine())
    for name, options in (("scan", {}), ("list of blocks", {"scan": False})):
        timings = timing.compare(systems(**options), blocks=7)
        print(
            f"vit_s16, {name}: "
            + ", ".join(f"{n} {t.median / CALLS * 1e6:.0f} us" for n, t in timings.items())
        )


if __name__ == "__main__":
    main()

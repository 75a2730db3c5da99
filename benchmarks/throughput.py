"""Images per second of this project beside torch: `python benchmarks/throughput.py --help`.

Both sides: random data on the device, float32 (or bfloat16 with --dtype), the whole training step
with AdamW (torch: fused=True), dropping off. Ours includes the normalisation of uint8 images, the
finiteness check of every step and the metrics; the peer gets float images.
"""

import argparse
import functools

import timing

timing.huge_pages()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import peers  # noqa: E402, F401
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

import jaxvision as jv  # noqa: E402
from jaxvision.tasks.classification import Classification  # noqa: E402
from jaxvision.train.optimizer import make_optimizer  # noqa: E402
from jaxvision.train.sharding import make_mesh, put_batch  # noqa: E402
from jaxvision.train.state import abstract_model, abstract_state, create_state  # noqa: E402
from jaxvision.train.step import make_eval_step, make_preprocess, make_train_step  # noqa: E402

PEERS = {  # our name: timm's
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_l16": "vit_large_patch16_224",
    "resnet50": "resnet50",
}
RATE = 1e-8  # so small that the state does not drift


def jax_call(name, mode, batch_size, dtype):
    """Returns a call that runs one step of our model to its end."""
    build = functools.partial(_build, name=name, dtype=dtype)
    graphdef, params, _ = abstract_model(build)
    schedule = optax.constant_schedule(RATE)
    tx = make_optimizer(params, name="adamw", schedule=schedule, weight_decay=0.05)
    mesh = make_mesh(data=1, fsdp=1) if jax.device_count() == 1 else make_mesh()
    abstract = abstract_state(build, tx, mesh=mesh)
    state = create_state(build, tx, seed=0, abstract=abstract)
    spec = jv.get_spec(name)
    preprocess = make_preprocess(mean=spec.preprocess.mean, std=spec.preprocess.std)
    size = spec.image_size
    rng = np.random.default_rng(0)
    batch = put_batch(
        {
            "image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
            "label": rng.integers(0, 1000, batch_size).astype(np.int32),
            "mask": np.ones(batch_size, bool),
        },
        mesh,
    )
    if mode == "infer":
        step = make_eval_step(graphdef, Classification(), preprocess=preprocess)

        def infer():
            jax.block_until_ready(step(state.params, state.batch_stats, batch))

        return infer
    step = make_train_step(
        graphdef,
        Classification(),
        tx,
        schedule=schedule,
        preprocess=preprocess,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
    )

    def train():
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    return train


def _build(rngs, *, name, dtype):
    return jv.create_model(name, dtype=dtype, rngs=rngs)


def torch_call(name, mode, batch_size, *, dtype="float32", channels_last=False, compiled=False):
    """Returns a call that runs one step of timm's model to its end."""
    import timm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(PEERS[name]).to(device, memory_format=memory_format)
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    images = images.contiguous(memory_format=memory_format)
    labels = torch.randint(0, 1000, (batch_size,), device=device)
    model.train(mode == "train")
    forward = torch.compile(model) if compiled else model
    autocast = functools.partial(
        torch.autocast, device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"
    )

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    if mode == "infer":

        @torch.inference_mode()
        def infer():
            with autocast():
                forward(images)
            finish()

        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, fused=True)

    def train():
        optimizer.zero_grad()
        with autocast():
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        finish()

    return train


def main():
    """Prints one line for each model and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vit_s16,vit_b16,resnet50")
    parser.add_argument("--modes", default="infer,train")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block, at least")
    parser.add_argument("--peers", default="eager,channels_last,compile")
    options = parser.parse_args()
    print(timing.machine())
    for name in options.models.split(","):
        for mode in options.modes.split(","):
            systems = {"jaxvision": jax_call(name, mode, options.batch, options.dtype)}
            variants = {
                "eager": {},
                "channels_last": {"channels_last": True},
                "compile": {"compiled": True, "channels_last": "resnet" in name},
            }
            for peer in filter(None, options.peers.split(",")):
                if peer == "channels_last" and name.startswith("vit"):
                    continue  # no convolution but the patches
                systems[f"torch {peer}"] = torch_call(
                    name, mode, options.batch, dtype=options.dtype, **variants[peer]
                )
            timings = timing.compare(systems, blocks=options.blocks, seconds=options.seconds)
            best = min((t.median for n, t in timings.items() if n != "jaxvision"), default=None)
            ratio = f"{best / timings['jaxvision'].median:.2f}x" if best else ""
            rates = ", ".join(f"{n} {t.rate(options.batch)}" for n, t in timings.items())
            print(f"{name} {mode}: {ratio} the best of torch; images/s: {rates}", flush=True)


if __name__ == "__main__":
    main()

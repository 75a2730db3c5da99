"""Images per second of this project beside torch: `python benchmarks/throughput.py --help`.

Both sides: random data on the device, float32 (or bfloat16 with --dtype), the whole training step
with AdamW (torch: fused=True), dropping off. Ours includes the normalisation of uint8 images, the
finiteness check of every step and the metrics; the peer gets float images.
"""

import argparse
import functools

import jax
import peers  # noqa: F401
import timing
import torch
import torch.nn.functional as F  # noqa: N812
from ours import RATE, training

import jaxvision as jv
from jaxvision.train.sharding import put_batch

CONVOLUTIONAL = ("resnet", "convnext", "mobilenet", "efficientnet")  # families


def jax_call(name, mode, batch_size, dtype):
    """Returns a call that runs one step of our model to its end."""
    model = training(name, dtype=dtype)
    state = model.create()
    batch = put_batch(model.batch(batch_size), model.mesh)

    def infer():
        jax.block_until_ready(model.eval_step(state.params, state.batch_stats, batch))

    def train():
        nonlocal state
        state, _ = model.train_step(state, batch)
        jax.block_until_ready(state)

    return infer if mode == "infer" else train


def peer_model(name):
    """Returns the same model of timm, or of torchvision where timm has none; it drops nothing."""
    import timm
    import torchvision

    from jaxvision.parity.peers import drop_nothing

    spec = jv.get_spec(name)
    if spec.timm is not None:
        model = timm.create_model(spec.timm)
    else:
        model = torchvision.models.get_model(spec.torchvision)
    drop_nothing(model)
    return model


def torch_call(name, mode, batch_size, *, dtype="float32", channels_last=False, compiled=False):
    """Returns a call that runs one step of the peer's model to its end."""
    step, finish = torch_step(
        peer_model(name),
        mode,
        batch_size,
        dtype=dtype,
        channels_last=channels_last,
        compiled=compiled,
    )

    def call():
        step()
        finish()

    return call


def torch_step(model, mode, batch_size, *, dtype, channels_last, compiled):
    """Returns a call that begins one step of a model, and one that waits for all that began."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=memory_format)
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    images = images.contiguous(memory_format=memory_format)
    labels = torch.randint(0, 1000, (batch_size,), device=device)
    model.train(mode == "train")
    forward = torch.compile(model) if compiled else model
    autocast = functools.partial(
        torch.autocast, device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"
    )
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, fused=True)

    @torch.inference_mode()
    def infer():
        with autocast():
            forward(images)

    def train():
        optimizer.zero_grad()
        with autocast():
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return infer if mode == "infer" else train, finish


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
            convolutions = jv.get_spec(name).family.startswith(CONVOLUTIONAL)
            variants = {
                "eager": {},
                "channels_last": {"channels_last": True},
                "compile": {"compiled": True, "channels_last": convolutions},
            }
            for peer in filter(None, options.peers.split(",")):
                if peer == "channels_last" and not convolutions:
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

"""Weights trained in torch: the same accuracy here, and a better start for other data.

`python benchmarks/transfer.py`, five minutes on 2 CPU cores. A small timm ViT learns `shapes` in
torch, its .pth file is read here, both name 2,000 unseen images; then a run on harder images
starts from the file (config.model.init_from), and another one from random values.
"""

import argparse
import json
import logging
import pathlib
import sys
import tempfile

from jaxvision.command_line import quiet_libraries

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # configs are not installed

SIDE = 48
MODEL = {"width": 128, "depth": 4, "num_heads": 4, "patch_size": 8}


def config(difficulty, steps, **options):
    """Returns the config of a run of the model."""
    from configs import quickstart

    config = quickstart.get_config()
    with config.unlocked():
        config.model.kwargs = MODEL
        config.data.shapes.difficulty = difficulty
        config.total_steps = steps
        config.schedule.warmup_steps = steps // 10
        config.eval.every_steps = 0
        config.checkpoint.every_steps = 0
        config.update_from_flattened_dict(options)
    return config.lock()


def torch_images(batch):
    """Returns the images of a host batch as our runs normalise them."""
    import torch

    from jaxvision.models.spec import HALF

    images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(HALF).view(1, 3, 1, 1)
    return (images - mean) / mean  # the deviation is a half, too


def train_in_torch(run, path):
    """Trains timm's model on the batches of a run and writes its state_dict."""
    import peers  # noqa: F401
    import timm
    import torch

    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=MODEL["patch_size"],
        embed_dim=MODEL["width"],
        depth=MODEL["depth"],
        num_heads=MODEL["num_heads"],
        num_classes=run.num_outputs,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=run.total_steps)
    batches = run.train_batches()
    for _ in range(run.total_steps):
        batch = next(batches)
        logits = model(torch_images(batch))
        labels = torch.from_numpy(batch["label"]).long()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        schedule.step()
    batches.close()
    torch.save(model.state_dict(), path)
    return model.eval()


def compare(run, peer, path):
    """Prints how often the two models are right, and how often they agree."""
    import jax
    import torch
    from flax import nnx

    import jaxvision as jv

    model = run.build(nnx.Rngs(0))
    jv.load_weights(model, path)
    ours = jax.jit(lambda model, images: model(run.preprocess_fn(images)).argmax(-1))
    right, theirs_right, agree, count = 0, 0, 0, 0
    for batch in run.eval_batches():
        mask, labels = batch["mask"], batch["label"]
        with torch.inference_mode():
            theirs = peer(torch_images(batch)).argmax(-1).numpy()
        names = ours(model, batch["image"])
        right += ((names == labels) & mask).sum()
        theirs_right += ((theirs == labels) & mask).sum()
        agree += ((names == theirs) & mask).sum()
        count += mask.sum()
    print(f"{count} images: torch {theirs_right / count:.4f}, jaxvision {right / count:.4f},")
    print(f"the same answer for {agree} of them", flush=True)


def main():
    """Prints the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of training in torch")
    parser.add_argument("--tuning_steps", type=int, default=300, help="of both runs here")
    options = parser.parse_args()
    from jaxvision.options.options import read_options
    from jaxvision.train.loop import train
    from jaxvision.train.setup import make_run

    quiet_libraries()
    logging.getLogger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trained.pth"
        run = make_run(read_options(config("easy", options.steps)))
        peer = train_in_torch(run, path)
        compare(run, peer, path)
        for name, start in (("the file", str(path)), ("random values", "")):
            workdir = pathlib.Path(folder) / name.replace(" ", "_")
            tuning = config("medium", options.tuning_steps, **{"model.init_from": start})
            train(make_run(read_options(tuning)), workdir)
            lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
            accuracy = next(x["eval/accuracy"] for x in lines if "eval/accuracy" in x)
            print(f"{options.tuning_steps} steps on harder images from {name}: {accuracy:.3f}")


if __name__ == "__main__":
    main()

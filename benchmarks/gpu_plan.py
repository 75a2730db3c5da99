"""What training steps would take on a GPU that is not here: compiled for it, not measured.

`python benchmarks/gpu_plan.py --models=vit_s16,resnet50 --targets=h100 --kernels=20`. Each step is
that of a recipe card for ImageNet (COCO for captions) with rendered images in place of its data, in
bfloat16. XLA's CUDA compiler must be here, `pip install 'jax[cuda13]'`, but no GPU. The assumptions
of the estimate are the constants of jaxvision/profiling/gpu_estimate.py. Kernels are chosen without
tuning: a real device chooses some others.
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
MODELS = (
    "vit_s16", "vit_b16", "vit_l16", "resnet50", "efficientnet_b0", "swin_t", "convnext_tiny",
    "captioner",
)  # fmt: skip
# Other models take the card of ViT-B/16, with as many of its options as they have.
CARDS = {name: name for name in ("resnet50", "efficientnet_b0", "swin_t")} | {
    "captioner": "caption_coco",
    "convnext_tiny": "swin_t",
}
WORDS = 10_000  # of captions: as many as COCO has that occur five times
COLUMNS = (
    "model", "GPU", "GB", "kernels", "float32 products", "TFLOP in float32", "GB of scores kept",
    "peak GiB", "roofline ms", "estimate ms", "images/s", "MFU",
)  # fmt: skip


def make_config(name, batch, settings, folder):
    """Returns the config of a model's card, which needs no data."""
    from jaxvision.data.captions.vocabulary import Vocabulary
    from jaxvision.models.registry import get_spec
    from jaxvision.train.model_flags import set_model_options

    card = CARDS.get(name, "vit_b16")
    captions = card.startswith("caption")
    get_config = importlib.import_module(f"configs.{card}").get_config
    config = get_config() if captions else get_config("imagenet2012")
    with config.unlocked():
        config.model.name, config.model.dtype = name, "bfloat16"
        for option in list(config.model.kwargs):
            if not hasattr(get_spec(name).config, option):
                del config.model.kwargs[option]
        config.batch_size = batch
        config.data.name, config.data.train_split, config.data.eval_split = (
            "shapes",
            "train",
            "test",
        )
        config.data.shapes.num_train = config.data.shapes.num_eval = max(batch, 100)
        if captions:
            config.caption.vocabulary = str(folder / "words.json")
            words = ["a", *(f"word{number}" for number in range(5, WORDS))]
            Vocabulary(words).save(config.caption.vocabulary)
        else:
            config.model.num_classes = 1000
    set_model_options(config, settings)
    return config


def plan(name, target, batch, settings):
    """Returns the plan of a model's training step."""
    from jaxvision.options.options import read_options
    from jaxvision.profiling.gpu_estimate import plan_step
    from jaxvision.profiling.gpu_target import COMPILER_OPTIONS, compiled_for, read_gpu
    from jaxvision.profiling.memory import StepMemory
    from jaxvision.train.setup import make_run

    with tempfile.TemporaryDirectory() as folder, compiled_for(target) as devices:
        options = read_options(make_config(name, batch, settings, pathlib.Path(folder)))
        memory = StepMemory(make_run(options, devices=devices), compiler_options=COMPILER_OPTIONS)
        memory.train(batch)
        if memory.program is None:
            raise RuntimeError(f"A batch of {batch} does not fit.")
        return plan_step(memory, read_gpu(target), batch)


def row(name, target, options):
    """Prints {"cells" of the table, "details": what takes most time and memory}."""
    sys.path.insert(0, str(ROOT))
    step = plan(name, target, options.batch, [tuple(each.split("=", 1)) for each in options.set])
    count, flops = step.float32_products
    cells = (
        f"{step.moved_bytes / 1e9:.0f}",
        f"{step.num_kernels:,}",
        str(count),
        f"{flops / 1e12:.2f}",
        f"{step.score_bytes / 1e9:.1f}",
        f"{step.peak_bytes / 2**30:.1f}",
        f"{1e3 * step.roofline_seconds:.1f}",
        f"{1e3 * step.seconds:.1f}",
        f"{step.images_per_second:,.0f}",
        f"{step.mfu:.0%}",
    )
    held = [f"kept for the backward pass, {group}" for group in step.large_arrays]
    details = "\n".join([step.slowest(options.kernels), *held])
    print(json.dumps({"cells": cells, "details": details}))


def in_own_process(name, target):
    """Returns what `row` prints in a process that may fail, and the sentence of its failure."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--row={name}", f"--of={target}"]
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None, lines[-1] if lines else f"exit code {done.returncode}"


def main():
    """Prints one row for each model and GPU; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--targets", default="h100,h200")
    parser.add_argument("--batch", type=int, default=256, help="images of a step")
    parser.add_argument("--kernels", type=int, default=0, help="list that many rows of kernels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="field of the models"
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        return row(options.row, options.of, options)
    print(f"bfloat16, batch {options.batch}{''.join(f', {each}' for each in options.set)}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    details, failed = [], False
    for name in options.models.split(","):
        for target in options.targets.split(","):
            result, error = in_own_process(name, target)
            failed |= result is None
            cells = result["cells"] if result else [error.replace("|", "/")]
            print(f"| {' | '.join([name, target, *cells])} |", flush=True)
            if result and options.kernels:
                details.append(f"\n{name} on {target}\n{result['details']}")
    print("\n".join(details), end="\n" if details else "")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""What learning without labels brings on CIFAR-10, where only 1,000 images have labels.

`python benchmarks/self_supervised.py --data=data/cifar10 --seeds=2`: a small ViT and a small ResNet
learn from the 41,000 images without labels, by a masked autoencoder (ViT) and by MoCo v3 (both),
each on as many images as 2 CPU cores take in `--minutes`; then come the 1,000 labels: 20 nearest
neighbours, a linear probe, and fine-tuning, beside random values and beside training on the 1,000
alone, in the same steps. `--data` is a folder with train_*.zip, val.zip and test.zip, each of
folders of images, one a class; accuracies are those of val and test together. `--rows` picks some
of the rows. What is finished in `--workdir` is not trained again, and what was stopped goes on.
"""

import argparse
import json
import pathlib
from typing import Any

import cifar

from jaxvision.command_line import quiet_libraries

VIT = {"width": 128, "depth": 4, "num_heads": 4, "patch_size": 4}
RESNET = {"stem": "cifar", "stem_width": 32, "first_stride": 2, "stage_widths": (32, 64, 128, 256)}
TRUNKS = {"ViT": ("vit_ti16", VIT), "ResNet": ("resnet18", RESNET)}
DECODER = {"decoder_width": 64, "decoder_depth": 2, "decoder_num_heads": 2}
# Images a second of 2 quiet CPU cores: what `--minutes` is worth.
RATES = {("ViT", "MAE"): 450, ("ViT", "MoCo v3"): 90, ("ResNet", "MoCo v3"): 60}
LABELLED = 1_000
ROWS = tuple(
    f"{trunk}: {start}"
    for trunk in TRUNKS
    for start in ("random values", "1,000 labels", "MAE", "MoCo v3")
    if (trunk, start) != ("ResNet", "MAE")
)


def pretraining(trunk: str, start: str, options) -> Any:
    """Returns the config of learning without labels."""
    from configs import mae_vit_b16, moco_v3_resnet50, moco_v3_vit_s16

    if start == "MAE":
        card = mae_vit_b16.get_config("shapes")
    else:
        card = {"ViT": moco_v3_vit_s16, "ResNet": moco_v3_resnet50}[trunk].get_config("shapes")
    config: Any = card
    with config.unlocked():
        name, kwargs = TRUNKS[trunk]
        if start == "MAE":
            config.model.kwargs = kwargs | DECODER
        else:
            config.model.name, config.model.kwargs = name, kwargs
        config.batch_size = 256
        config.optimizer.learning_rate = 1e-3
        images = 60 * options.minutes * RATES[trunk, start]
        config.total_epochs, config.total_steps = 0.0, max(round(images / config.batch_size), 10)
        config.schedule.warmup_epochs, config.schedule.warmup_percent = 0.0, 5.0
        config.eval.every_steps, config.eval.every_percent = 0, 25.0
        config.eval.features = ("knn",)
        config.checkpoint.best_metric = "eval/knn_accuracy"
        config.data.name, config.data.path = "folder", str(options.data)
        config.data.train_split, config.data.eval_split = "train_*.zip", "val.zip"
    return config


def supervised(trunk: str, options, init_from: str = "", steps: int = 0) -> Any:
    """Returns the config of learning from the 1,000 labels."""
    from configs import common

    config: Any = common.get_config()
    with config.unlocked():
        common.cifar(config, "folder")
        config.data.path = str(options.workdir)
        config.data.train_split, config.data.eval_split = "labelled.zip", "eval.zip"
        config.model.name, config.model.kwargs = TRUNKS[trunk]
        config.model.init_from = init_from
        config.augment.rand_augment_layers = 2
        config.batch_size, config.eval_batch_size = 64, 500
        config.total_steps = steps or options.steps
        config.eval.every_steps = 0
        config.schedule.warmup_percent = 10.0
        config.optimizer.learning_rate = 1e-12 if steps == 1 else 1e-3
        config.optimizer.weight_decay = 0.05
    return config


def features(run: pathlib.Path, options) -> dict[str, float]:
    """Returns the accuracies in % of nearest neighbours and of a linear probe."""
    from jaxvision.__main__ import main

    out = run.with_suffix(".json")
    if not out.exists():
        main(
            f"probe --run={run} --data=folder --path={options.workdir} --train-split=labelled.zip"
            f" --eval-split=eval.zip --shots=1 --out={out}".split()
        )
    probes = json.loads(out.read_text())["probes"]
    return {name: 100 * probes[name]["accuracy"] for name in ("20_nn", "linear")}


def measure(row: str, seed: int, options) -> dict[str, float]:
    """Trains what is not trained yet, and returns the accuracies of a row in %."""
    from jaxvision.options.options import read_options
    from jaxvision.train.loop import train
    from jaxvision.train.setup import make_run

    trunk, start = row.split(": ")

    def trained(name: str, config: Any) -> pathlib.Path:
        with config.unlocked():
            config.seed, config.log.to = seed, ()
            config.data.num_threads = 2
        folder = options.workdir / f"{trunk}_{name.replace(' ', '_')}_{seed}".lower()
        train(make_run(read_options(config.lock()), workdir=folder), folder)
        return folder

    if start == "random values":  # one step that moves nothing
        run = trained(start, supervised(trunk, options, steps=1))
    elif start == "1,000 labels":
        run = trained("labels", supervised(trunk, options))
    else:
        run = trained(start, pretraining(trunk, start, options))
    found = features(run, options)
    if start in ("random values", "1,000 labels"):
        tuned = trained("labels", supervised(trunk, options))
    else:
        tuned = trained(f"{start} tuned", supervised(trunk, options, init_from=str(run)))
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").open()]
    return found | {"tuned": 100 * [x["eval/accuracy"] for x in lines if "eval/accuracy" in x][-1]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/without_labels"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each pretraining")
    parser.add_argument("--steps", type=int, default=600, help="with the labels")
    parser.add_argument("--rows", default=";".join(ROWS))
    options = parser.parse_args()
    quiet_libraries()
    options.data, options.workdir = options.data.absolute(), options.workdir.absolute()
    options.workdir.mkdir(parents=True, exist_ok=True)
    if not (options.workdir / "labelled.zip").exists():
        images = cifar.read_images(options.data.glob("train_*.zip"))
        cifar.write_part(options.workdir / "labelled.zip", images, LABELLED)
    if not (options.workdir / "eval.zip").exists():
        evaluated = cifar.read_images([options.data / "val.zip", options.data / "test.zip"])
        cifar.write_part(options.workdir / "eval.zip", evaluated)
    print("| trunk: start | 20-nn | linear probe | fine-tuned |\n|---|---|---|---|")
    for row in options.rows.split(";"):
        seeds = [measure(row, seed, options) for seed in range(options.seeds)]
        cells = [cifar.mean_and_spread([each[name] for each in seeds]) for name in seeds[0]]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""What ImageNet's weights bring on CIFAR-10 and on its cats and dogs, beside random values.

`python benchmarks/transfer_pretrained.py --data=data/cifar10`: EfficientNet-Lite0 of the extra
`weights`, with images of 128 pixels, learns from 1,000, 5,000 and all images: a linear classifier
on its features (`probe`), its head, its late half, all of it, and all of it from random values,
each in the same number of steps. `--data` is a folder with train_*.zip, val.zip and test.zip, each
of folders of images, one a class. About an hour on 2 CPU cores. What is finished in `--workdir` is
not trained again.
"""

import argparse
import json
import pathlib

import cifar

from jaxvision.command_line import quiet_libraries

WEIGHTS = "tf_efficientnet_lite0.ml_illustrated_in1k"
COUNTS = (1_000, 5_000, 0)  # 0: all
TASKS = {"CIFAR-10": None, "cats and dogs": ("cat", "dog")}
RATES = {"head": 1e-2, "late": 1e-3, "full": 1e-3, "random values": 3e-3}


def config(folder, train_zip, eval_zip, *, row: str, steps: int):
    """Returns the config of one cell."""
    from configs import common

    config = common.get_config()
    with config.unlocked():
        config.model.name = "tf_efficientnet_lite0"
        config.data.name, config.data.path = "folder", str(folder)
        config.data.train_split, config.data.eval_split = train_zip, eval_zip
        config.data.image_size = 128
        config.augment.crop_scale = (0.5, 1.0)
        config.batch_size, config.eval_batch_size = 64, 100
        config.total_steps = steps
        config.schedule.warmup_percent = 10.0
        config.optimizer.learning_rate = RATES[row]
        config.optimizer.weight_decay = 0.01
        if row != "random values":
            config.model.init_from = WEIGHTS
            config.optimizer.preset = row
            config.optimizer.head_multiplier = 1.0 if row == "head" else 10.0
        config.checkpoint.best_metric = "eval/accuracy"
        config.log.to = ()
    return config.lock()


def probe(folder, train_zip, eval_zip, workdir) -> float:
    """Returns the accuracy in % of a linear classifier on the features."""
    from jaxvision.__main__ import main

    out = workdir.with_suffix(".json")
    if not out.exists():
        main(
            f"probe --weights={WEIGHTS} --data=folder --path={folder} --train-split={train_zip}"
            f" --eval-split={eval_zip} --shots=1 --out={out}".split()
        )
    probes = json.loads(out.read_text())["probes"]
    return 100 * probes["linear"]["accuracy"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/pretrained"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", default=",".join(("probe", *RATES)))
    options = parser.parse_args()
    quiet_libraries()
    folder = options.workdir
    folder.mkdir(parents=True, exist_ok=True)
    images = cifar.read_images(options.data.glob("train_*.zip"))
    evaluated = cifar.read_images([options.data / "val.zip", options.data / "test.zip"])
    for task, classes in TASKS.items():
        name = task.replace(" ", "_")
        chosen = classes or tuple(images)
        for count in COUNTS:
            if not (folder / f"{name}_{count}.zip").exists():
                cifar.write_part(
                    folder / f"{name}_{count}.zip", {c: images[c] for c in chosen}, count
                )
        if not (folder / f"{name}_eval.zip").exists():
            cifar.write_part(folder / f"{name}_eval.zip", {c: evaluated[c] for c in chosen})
        for row in options.rows.split(","):
            cells = []
            for count in COUNTS:
                train_zip, eval_zip = f"{name}_{count}.zip", f"{name}_eval.zip"
                workdir = folder / f"{name}_{row.replace(' ', '_')}_{count}"
                if row == "probe":
                    cells.append(probe(folder, train_zip, eval_zip, workdir))
                else:
                    cell = config(folder, train_zip, eval_zip, row=row, steps=options.steps)
                    cells.append(cifar.accuracy(cell, workdir))
            print(f"| {task} | {row} | {' | '.join(f'{x:.1f}' for x in cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""What helps on an imbalanced CIFAR-10: balanced accuracy of a small ResNet, each row one remedy.

`python benchmarks/imbalance.py --data=data/cifar10`: class k of 10 has 100^(-k/9) of the images of
the first, 100 times as many as the last; the evaluation images are equally many. Every row has the
same steps of 128 images. `--data` is a folder with train_*.zip, val.zip and test.zip, each of
folders of images, one a class. What is finished in `--workdir` is not trained again.
"""

import argparse
import json
import pathlib

import cifar
import numpy as np

from jaxvision.command_line import quiet_libraries

ROWS = {
    "plain": {},
    "class_weights=balanced": {"loss.class_weights": "balanced"},
    "class_weights=effective": {"loss.class_weights": "effective"},
    "sampling=balanced": {"data.sampling": "balanced"},
    "sampling=sqrt": {"data.sampling": "sqrt"},
    "logit_adjustment=1": {"loss.logit_adjustment": 1.0},
}
RATIO = 100  # images of the largest class by those of the smallest


def config(folder, *, steps: int, seed: int, row: str):
    """Returns the config of one run."""
    from configs import cifar10_resnet

    config = cifar10_resnet.get_config()
    config.data.name, config.data.path = "folder", str(folder)
    config.data.train_split, config.data.eval_split = "train.zip", "eval.zip"
    config.model.kwargs.stage_widths = (32, 64, 128)
    config.total_epochs, config.total_steps = 0.0, steps
    config.schedule.warmup_epochs, config.schedule.warmup_percent = 0.0, 10.0
    config.optimizer.learning_rate = 0.1
    config.loss.label_smoothing = 0.0
    config.ema_decay = 0.0
    config.checkpoint.best_metric = "eval/balanced_accuracy"
    config.eval.every_steps = config.checkpoint.every_steps = 0
    config.log.to = ()
    config.seed = seed
    config.update_from_flattened_dict(ROWS[row])
    return config


def write_data(data: pathlib.Path, folder: pathlib.Path) -> dict[str, int]:
    """Writes the imbalanced training images and the evaluation images; returns the counts."""
    images = cifar.read_images(data.glob("train_*.zip"))
    most = min(len(members) for members in images.values())
    counts = {
        name: round(most * RATIO ** (-k / (len(images) - 1))) for k, name in enumerate(images)
    }
    generator = np.random.default_rng(0)
    chosen = {
        name: [members[i] for i in sorted(generator.permutation(len(members))[: counts[name]])]
        for name, members in images.items()
    }
    evaluated = cifar.read_images([data / "val.zip", data / "test.zip"])
    for name, part in (("train", chosen), ("eval", evaluated)):
        if not (folder / f"{name}.zip").exists():
            cifar.write_part(folder / f"{name}.zip", part)
    return counts


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/imbalance"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    quiet_libraries()
    options.workdir.mkdir(parents=True, exist_ok=True)
    print(json.dumps(write_data(options.data, options.workdir)), flush=True)
    for row in options.rows.split(","):
        values = []
        for seed in range(options.seeds):
            run = config(options.workdir, steps=options.steps, seed=seed, row=row)
            workdir = options.workdir / f"{row}_{options.steps}_{seed}"
            values.append(cifar.accuracy(run, workdir, "eval/balanced_accuracy"))
        print(f"| {row} | {cifar.mean_and_spread(values)} |", flush=True)


if __name__ == "__main__":
    main()

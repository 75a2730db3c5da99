"""What each preset of config.optimizer.preset brings: from eight classes of CIFAR-10 to the others.

`python benchmarks/transfer_presets.py --data=data/cifar10`: a small ResNet learns eight classes;
then it learns to tell cats from dogs, which it has never seen, from 1,000, 5,000 and all images,
under each preset and from random values, in the same number of steps. `--data` is a folder with
train_*.zip, val.zip and test.zip, each of folders of images, one a class. About half an hour on 2
CPU cores. What is finished in `--workdir` is not trained again.
"""

import argparse
import pathlib

import cifar

from jaxvision.command_line import quiet_libraries

PRESETS = ("head", "late", "half", "most", "full_low_lr", "full", "random values")
COUNTS = (1_000, 5_000, 0)  # 0: all
NEW = ("cat", "dog")
STEPS = 250  # of a transfer


def config(folder, train_zip, eval_zip, **options):
    """Returns the config of the pretraining, or with options that of a transfer."""
    from configs import cifar10_resnet

    config = cifar10_resnet.get_config()
    with config.unlocked():
        config.data.name, config.data.path = "folder", str(folder)
        config.data.train_split, config.data.eval_split = train_zip, eval_zip
        config.model.kwargs.stem_width = 32
        config.model.kwargs.stage_widths = (32, 64, 128)
        config.ema_decay, config.checkpoint.best_metric = 0.0, "eval/accuracy"
        config.eval.every_steps = config.checkpoint.every_steps = 0
        config.log.to = ()
        config.update_from_flattened_dict(options)
    return config.lock()


def write_parts(data, folder):
    """Writes the zips of both tasks."""
    images = cifar.read_images(data.glob("train_*.zip"))
    evaluated = cifar.read_images([data / "val.zip", data / "test.zip"])
    old = {name: images[name] for name in images if name not in NEW}
    cifar.write_part(folder / "old.zip", old)
    cifar.write_part(folder / "old_eval.zip", {name: evaluated[name] for name in old})
    for count in COUNTS:
        cifar.write_part(folder / f"new_{count}.zip", {n: images[n] for n in NEW}, count)
    cifar.write_part(folder / "new_eval.zip", {name: evaluated[name] for name in NEW})


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/presets"))
    parser.add_argument("--epochs", type=float, default=4.0, help="of the pretraining")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--presets", default=",".join(PRESETS))
    options = parser.parse_args()
    quiet_libraries()
    folder = options.workdir
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "new_eval.zip").exists():
        write_parts(options.data, folder)
    start = folder / "old"
    first = config(folder, "old.zip", "old_eval.zip", total_epochs=options.epochs)
    print(f"eight classes: {cifar.accuracy(first, start):.1f} %", flush=True)
    for preset in options.presets.split(","):
        cells = []
        for count in COUNTS:
            values = []
            for seed in range(options.seeds):
                transfer = {
                    "seed": seed,
                    "total_epochs": 0.0,
                    "total_steps": STEPS,
                    "batch_size": 64,
                    "schedule.warmup_epochs": 0.0,
                    "schedule.warmup_percent": 10.0,
                    "optimizer.learning_rate": 0.02,
                }
                if preset == "random values":
                    transfer["optimizer.learning_rate"] = 0.1
                else:
                    transfer |= {"model.init_from": str(start), "optimizer.preset": preset}
                run = config(folder, f"new_{count}.zip", "new_eval.zip", **transfer)
                values.append(cifar.accuracy(run, folder / f"{preset}_{count}_{seed}"))
            cells.append(cifar.mean_and_spread(values))
        print(f"| {preset} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

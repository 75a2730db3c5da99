"""The fast recipe of CIFAR-10 (configs/cifar10_fast.py) with several seeds: accuracy and time.

`python benchmarks/cifar_fast.py --data=data/cifar10 --seeds=3`: 20 minutes a seed on 2 quiet CPU
cores. `--data` is a folder with train_*.zip and test.zip, each of folders of images, one a class;
`--split=val.zip` evaluates on other images, to choose by; `--machine=gpu` is the card for a GPU;
`--epochs=2.5` is a shorter run. A run that is finished in `--workdir` is not trained again.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

import cifar

from jaxvision.command_line import quiet_libraries


def config(arguments, seed):
    """Returns the card on zips of images."""
    from configs import cifar10_fast

    config: Any = cifar10_fast.get_config(arguments.machine)
    with config.unlocked():
        config.seed = seed
        config.data.name, config.data.path = "folder", str(arguments.data)
        config.data.train_split, config.data.eval_split = "train_*.zip", arguments.split
        config.log.to = ()
        config.total_epochs = arguments.epochs or config.total_epochs
    return config.lock()


def measure(config, workdir):
    """Trains and evaluates; returns accuracies in % by weights and views, steps, and times."""
    from jaxvision.evaluation.evaluate import evaluate_fully
    from jaxvision.options.options import read_options
    from jaxvision.train.setup import make_run

    plain = cifar.accuracy(config, workdir, "eval_ema/accuracy")
    run = make_run(read_options(config), workdir=workdir, training=False)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    speeds = [x["train/images_per_second"] for x in lines if "train/images_per_second" in x]
    steps = max(x["step"] for x in lines)
    return {
        "one view": plain,
        "six views": 100 * evaluate_fully(run, workdir)["weights"]["eval_ema"]["accuracy"],
        "steps": steps,
        # Means of 50 steps each: the fastest is what a quiet machine does.
        "minutes": steps * config.batch_size / statistics.mean(speeds) / 60,
        "minutes at the fastest rate": steps * config.batch_size / max(speeds) / 60,
    }


def main():
    """Prints a row for each seed, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/cifar_fast"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--machine", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--split", default="test.zip")
    parser.add_argument("--epochs", type=float, default=0.0)
    arguments = parser.parse_args()
    quiet_libraries()
    rows = []
    for seed in range(arguments.seeds):
        rows.append(measure(config(arguments, seed), arguments.workdir / str(seed)))
        if seed == 0:
            print(f"| seed | {' | '.join(rows[0])} |\n{'|---' * (len(rows[0]) + 1)}|")
        print(f"| {seed} | {' | '.join(f'{x:.4g}' for x in rows[-1].values())} |", flush=True)
    columns = [[row[name] for row in rows] for name in rows[0]]
    print(f"| mean | {' | '.join(map(cifar.mean_and_spread, columns))} |")


if __name__ == "__main__":
    main()

"""What the optimizers reach on CIFAR-10 in equal numbers of steps, for a small ResNet and a ViT.

`python benchmarks/optimizers.py --data=data/cifar10`: AdamW, SGD, Muon and schedule-free AdamW,
each with two seeds, with the models and augmentation of configs/cifar10_resnet.py and
vit_cifar10.py.
`--data` is a folder with train_*.zip and test.zip, each of folders of images, one a class. What is
finished in `--workdir` is not trained again.
"""

import argparse
import pathlib
import statistics

import cifar

from jaxvision.command_line import quiet_libraries

CARDS = ("cifar10_resnet", "vit_cifar10")
# Peak rate for the ResNet and for the ViT, and weight decay.
RATES = {
    "adamw": (3e-3, 1e-3, 0.05),
    "sgd": (0.2, 0.1, 5e-4),
    "muon": (3e-3, 1e-3, 0.05),
    "schedule_free_adamw": (5e-3, 2.5e-3, 0.05),
}


def config(data: pathlib.Path, card: str, name: str, *, seed: int, steps: int):
    """Returns the config of one run, and the metric that counts."""
    from importlib import import_module

    config = import_module(f"configs.{card}").get_config()
    with config.unlocked():
        config.seed = seed
        config.data.name, config.data.path = "folder", str(data)
        config.data.train_split, config.data.eval_split = "train_*.zip", "test.zip"
        config.total_epochs, config.total_steps = 0.0, steps
        config.ema_decay = 0.0
        config.schedule.warmup_epochs, config.schedule.warmup_steps = 0.0, 0
        config.schedule.warmup_percent = 10.0
        config.optimizer.name = name
        config.optimizer.nesterov = True
        config.optimizer.momentum = 0.95 if name == "muon" else 0.9
        *rates, config.optimizer.weight_decay = RATES[name]
        config.optimizer.learning_rate = rates[CARDS.index(card)]
        average = "eval"
        if name.startswith("schedule_free"):
            config.schedule.name = "constant"
            average = "eval_schedule_free"
        metric = f"{average}/accuracy"
        config.checkpoint.best_metric = metric
        config.log.to = ()
    return config.lock(), metric


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/optimizers"))
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cards", default=",".join(CARDS))
    parser.add_argument("--names", default=",".join(RATES))
    options = parser.parse_args()
    quiet_libraries()
    print(f"| card | optimizer | accuracy in %, {options.seeds} seeds | mean |\n|---|---|---|---|")
    for card in options.cards.split(","):
        for name in options.names.split(","):
            found = []
            for seed in range(options.seeds):
                cell, metric = config(options.data, card, name, seed=seed, steps=options.steps)
                workdir = options.workdir / f"{card}_{name}_{seed}"
                found.append(cifar.accuracy(cell, workdir, metric))
            each = ", ".join(f"{x:.1f}" for x in found)
            print(f"| {card} | `{name}` | {each} | {statistics.mean(found):.1f} |", flush=True)


if __name__ == "__main__":
    main()

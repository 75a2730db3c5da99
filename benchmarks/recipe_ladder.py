"""What each part of the training recipe brings, on a part of CIFAR-10 and equal budgets.

`python benchmarks/recipe_ladder.py --data=data/cifar10`: a small ResNet and a small ViT learn the
same images for the same number of steps, each rung with one part more; at last the ResNet teaches
the ViT. `--data` is a folder with train_*.zip, val.zip and test.zip, each of folders of images, one
a class. With two seeds 100 minutes on 2 CPU cores. A run that is finished in `--workdir` is not
trained again.
"""

import argparse
import pathlib

import cifar

from jaxvision.command_line import quiet_libraries

RUNGS = {  # options on top of those of the rung before
    "basic (padded crop, flip)": {},
    "+ RandAugment(2, 9)": {"augment.rand_augment_layers": 2, "augment.rand_augment_magnitude": 9},
    "+ mixup 0.2, cutmix 1": {
        "augment.mixup_alpha": 0.2,
        "augment.cutmix_alpha": 1.0,
        "augment.mix_probability": 0.5,
    },
    "+ smoothing 0.1, EMA, drop path 0.1": {
        "loss.label_smoothing": 0.1,
        "ema_decay": 0.99,
        "model.kwargs.drop_path_rate": 0.1,
    },
    "+ taught by the ResNet": {"distill.loss": "soft", "distill.temperature": 2.0},
}
TEACHER = "resnet_3_0"  # the folder of its run: model, rung, seed
MODELS = {
    "ResNet": {
        "model.name": "resnet18",
        "model.kwargs": dict(
            stem="cifar",
            stem_width=32,
            first_stride=2,
            stage_widths=(32, 64, 128),
            stage_depths=(1, 1, 1),
        ),
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
    },
    "ViT": {
        "model.name": "vit_ti16",
        "model.kwargs": dict(patch_size=4, width=96, depth=4, num_heads=3, mlp_ratio=2.0),
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-3,
        "optimizer.weight_decay": 0.05,
    },
}


def config(model, rung, seed, folder, epochs):
    """Returns the config of one run: all rungs up to this one."""
    from configs import common

    config = common.get_config()
    with config.unlocked():
        config.data.name, config.data.path = "folder", str(folder)
        config.data.train_split, config.data.eval_split = "train.zip", "eval.zip"
        config.data.image_size, config.data.eval_resize = 32, 0
        config.augment.crop = "pad"
        config.batch_size, config.eval_batch_size = 128, 250
        config.total_epochs, config.schedule.warmup_percent = float(epochs), 10.0
        config.eval.every_steps = config.checkpoint.every_steps = 0
        config.log.to = ()
        config.seed = seed
        options = dict(MODELS[model])
        for name in list(RUNGS)[: rung + 1]:
            options |= RUNGS[name]
        config.model.kwargs = dict(options.pop("model.kwargs"))
        config.update_from_flattened_dict(options)
        if "distill.loss" in options:
            config.distill.teacher_weights = str(folder / TEACHER)
    return config.lock()


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ladder"))
    parser.add_argument("--images", type=int, default=2_500)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    quiet_libraries()
    options.workdir.mkdir(parents=True, exist_ok=True)
    if not (options.workdir / "train.zip").exists():
        evaluated = cifar.read_images([options.data / "val.zip", options.data / "test.zip"])
        cifar.write_part(options.workdir / "eval.zip", evaluated)
        images = cifar.read_images(options.data.glob("train_*.zip"))
        cifar.write_part(options.workdir / "train.zip", images, options.images)
    for model in options.models.split(","):
        for rung, name in enumerate(RUNGS):
            if model == "ResNet" and "distill.loss" in RUNGS[name]:
                continue
            values = []
            for seed in range(options.seeds):
                run = config(model, rung, seed, options.workdir, options.epochs)
                folder = options.workdir / f"{model.lower()}_{rung}_{seed}"
                metric = "eval_ema/accuracy" if run.ema_decay else "eval/accuracy"
                values.append(cifar.accuracy(run, folder, metric))
            print(f"| {model} | {name} | {cifar.mean_and_spread(values)} |", flush=True)


if __name__ == "__main__":
    main()

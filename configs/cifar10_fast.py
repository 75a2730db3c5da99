"""CIFAR-10 from scratch as fast as it goes: the recipe of the airbench speed runs.

A frozen whitening of 2x2 patches, wide convolutions and max-pooling, biases of norms that learn 64
times as fast, one cycle of Nesterov SGD, label smoothing 0.2, flips by turns, crops moved by 2
pixels; an evaluation (--mode=eval) averages six views.

After the colon: cpu (a narrow net, for 20 minutes on 2 CPU cores) or gpu (wide, 20 passes).
Command: python launch.py --config=configs/cifar10_fast.py --workdir=runs/fast
           --config.data.path=data/cifar-10-batches-py
     or: ... --config.data.name=folder --config.data.path=data/cifar10
           --config.data.train_split='train_*.zip' --config.data.eval_split=test.zip
What was measured is in benchmarks/RESULTS.md; python benchmarks/cifar_fast.py measures it.
Source: Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, https://arxiv.org/abs/2404.00498.
"""

from configs import common


def get_config(machine="cpu"):
    common.check_choice("machine", machine, "cpu", "gpu")
    config = common.get_config()
    config.model.name = "airbench94"
    common.cifar(config, "cifar10")
    config.augment.crop_padding = 2
    config.augment.crop_border = "reflect"
    config.augment.alternating_flip = True
    config.loss.label_smoothing = 0.2
    config.eval_batch_size = 200
    fast_biases = (r"norm\d/bias$", {"learning_rate": 64.0})
    if machine == "cpu":
        config.model.kwargs = dict(stage_widths=(64, 128, 256))
        config.batch_size = 128
        config.total_epochs = 7
        config.ema_decay = 0.99
        # A bias that learns needs the gradient of the largest map: a tenth of the step.
        config.optimizer.rules = (("^stem/", {"frozen": True}), fast_biases)
    else:
        config.model.kwargs = dict(stage_widths=(128, 384, 384))
        config.model.dtype = "bfloat16"
        config.batch_size = 1024
        config.total_epochs = 20
        config.ema_decay = 0.95
        first_passes = {"name": "multi_step", "milestone_epochs": (3.0,), "step_factor": 0.0}
        config.optimizer.rules = (
            ("^stem/kernel$", {"frozen": True}),
            ("^stem/bias$", {"schedule": first_passes}),
            fast_biases,
        )
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.85
    config.optimizer.learning_rate = 1.5 * config.batch_size / 1024
    config.optimizer.weight_decay = 1.33e-3
    config.schedule.name = "one_cycle"
    config.schedule.one_cycle_rise = 0.23
    config.schedule.one_cycle_anneal = "linear"
    config.schedule.one_cycle_start_factor = 0.2
    config.schedule.one_cycle_end_factor = 0.35
    config.eval.every_steps = 0
    config.eval.tta = "flip_shift"
    config.checkpoint.best_metric = "eval_ema/accuracy"
    return config.lock()

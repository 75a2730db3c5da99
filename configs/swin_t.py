"""Swin-T from scratch. The argument behind the colon chooses the data; the default needs none.

Data behind the colon:
  --config=swin_t                  shapes, rendered on the fly
  --config=swin_t:imagenet2012     tfds imagenet2012, prepared as array_record
  --config=swin_t:cifar10          the CIFAR-10 python files
  --config=swin_t:folder           your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Liu et al. 2021, Swin Transformer; 28,288,354 parameters, 4.5 GMACs.
Recipe of `:imagenet2012`: torchvision's `swin_t` (references/classification), 300 epochs, batch
1024, AdamW 0.001 down to 0.00001, weight decay 0.05, 20 warm-up epochs, label smoothing 0.1, mixup
0.8, cutmix 1, TrivialAugment, erasing 0.25, each image augmented four times in a batch, clip 5,
drop path 0.2, average of the weights; it gives 81.474 % there (IMAGENET1K_V1).
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "cifar10", "folder")
    config = common.get_config()
    config.model.name = "swin_t"
    config.model.kwargs = dict(
        drop_path_rate=0.0, scan=common.either("auto"), remat=common.either(False)
    )
    config.data.image_size = 224
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    if data == "imagenet2012":
        config.model.dtype = "bfloat16"
        config.model.kwargs.drop_path_rate = 0.2
        common.set_source(config, data)
        config.data.interpolation = "bicubic"
        config.data.eval_resize = 232
        config.augment.policy = "trivial_augment"
        config.augment.erasing = 0.25
        config.augment.repeats = 4
        config.augment.mixup_alpha = 0.8
        config.augment.cutmix_alpha = 1.0
        config.loss.label_smoothing = 0.1
        config.batch_size = 1024
        config.eval_batch_size = 1024
        config.total_epochs = 300
        config.optimizer.learning_rate = 1e-3
        config.schedule.warmup_epochs = 20
        config.schedule.end_learning_rate = 1e-5
        config.ema_decay = 0.99993  # torchvision: 1 - 2e-5 * 1024 * 32 / 300, every 32 steps
        config.checkpoint.best_metric = "eval_ema/accuracy"
    else:
        common.small_data(config, data)
    return config.lock()

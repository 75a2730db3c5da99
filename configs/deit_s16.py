"""DeiT-S/16 on ImageNet-1k alone: how a ViT is trained without more images than that.

Data behind the colon:
  --config=deit_s16                  shapes, rendered on the fly
  --config=deit_s16:imagenet2012     tfds imagenet2012, prepared as array_record
  --config=deit_s16:folder           your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Touvron et al. 2021, Training data-efficient image transformers and distillation through
attention, table 9; 22,050,664 parameters, 4.6 GMACs.
Recipe of `:imagenet2012`: 300 epochs, batch 1024, AdamW 0.001, weight decay 0.05, 5 warm-up epochs,
label smoothing 0.1, drop path 0.1, timm's RandAugment 9, erasing 0.25, mixup 0.8, cutmix 1, each
image augmented three times in a batch. It gives 79.9 % (79.856 as timm evaluates the authors'
weights).
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "deit_s16"
    config.model.kwargs = dict(
        drop_path_rate=0.1, scan=common.either("auto"), remat=common.either(False)
    )
    config.data.image_size = 224
    config.data.eval_resize = 249  # 224 / 0.9
    config.data.interpolation = "bicubic"
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.loss.label_smoothing = 0.1
    config.augment.mixup_alpha = 0.8
    config.augment.cutmix_alpha = 1.0
    if data == "imagenet2012":
        config.model.dtype = "bfloat16"
        common.set_source(config, data)
        config.augment.preset = "deit"
        config.augment.repeats = 3
        config.batch_size = 1024
        config.eval_batch_size = 1024
        config.total_epochs = 300
        config.optimizer.learning_rate = 1e-3
        config.schedule.warmup_epochs = 5
        config.schedule.end_learning_rate = 1e-5
    else:
        common.small_data(config, data)
    return config.lock()

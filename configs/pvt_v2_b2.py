"""PVT v2 B2 from scratch. The argument behind the colon chooses the data; the default needs none.

Data behind the colon:
  --config=pvt_v2_b2                shapes, rendered on the fly
  --config=pvt_v2_b2:imagenet2012   tfds imagenet2012, prepared as array_record
  --config=pvt_v2_b2:folder         your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Wang et al. 2022, PVT v2; 25,362,856 parameters, 4.0 GMACs.
Recipe of `:imagenet2012`: the authors', which is DeiT's: 300 epochs, batch 1024, AdamW 0.001 down
to 0.00001, weight decay 0.05, 5 warm-up epochs, drop path 0.1, label smoothing 0.1, mixup 0.8,
cutmix 1, timm's RandAugment 9, erasing 0.25, each image augmented three times in a batch; it gave
82.06 % (as timm evaluates the authors' weights).
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "pvt_v2_b2"
    config.model.kwargs = dict(
        drop_path_rate=0.1, scan=common.either("auto"), remat=common.either(False)
    )
    config.data.image_size = 224
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    if data == "imagenet2012":
        config.model.dtype = "bfloat16"
        common.set_source(config, data)
        config.data.interpolation = "bicubic"
        config.augment.preset = "deit"
        config.augment.repeats = 3
        config.augment.mixup_alpha = 0.8
        config.augment.cutmix_alpha = 1.0
        config.loss.label_smoothing = 0.1
        config.batch_size = 1024
        config.eval_batch_size = 1024
        config.total_epochs = 300
        config.optimizer.learning_rate = 1e-3
        config.schedule.warmup_epochs = 5
        config.schedule.end_learning_rate = 1e-5
    else:
        common.small_data(config, data)
    return config.lock()

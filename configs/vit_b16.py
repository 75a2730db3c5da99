"""ViT-B/16 from scratch. The argument behind the colon chooses the data; the default needs none.

Data behind the colon:
  --config=vit_b16                  shapes, rendered on the fly
  --config=vit_b16:imagenet2012     tfds imagenet2012, prepared as array_record
  --config=vit_b16:cifar10          the CIFAR-10 python files
  --config=vit_b16:folder           your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; 86,567,656 parameters, 17.6 GMACs.
Recipe of `:imagenet2012`: torchvision's `vit_b_16` (references/classification), 300 epochs, batch
4096, AdamW 0.003, weight decay 0.3, 30 warm-up epochs, label smoothing 0.11, mixup 0.2, cutmix 1,
RandAugment, each image augmented three times in a batch, clip 1, average of the weights; it gives
81.072 % there (IMAGENET1K_V1).
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "cifar10", "folder")
    config = common.get_config()
    config.model.name = "vit_b16"
    config.model.kwargs = dict(
        drop_path_rate=0.0, scan=common.either("auto"), remat=common.either(False)
    )
    config.data.image_size = 224
    config.optimizer.name = "adamw"
    config.optimizer.clip_norm = 1.0
    if data == "imagenet2012":
        config.model.dtype = "bfloat16"
        common.set_source(config, data)
        config.augment.rand_augment_layers = 2
        config.augment.repeats = 3
        config.augment.mixup_alpha = 0.2
        config.augment.cutmix_alpha = 1.0
        config.loss.label_smoothing = 0.11
        config.batch_size = 4096
        config.eval_batch_size = 2048
        config.total_epochs = 300
        config.optimizer.learning_rate = 3e-3
        config.optimizer.weight_decay = 0.3
        config.schedule.warmup_epochs = 30
        config.ema_decay = 0.99973  # torchvision: 1 - 2e-5 * 4096 * 32 / 300, every 32 steps
        config.checkpoint.best_metric = "eval_ema/accuracy"
    else:
        common.small_data(config, data)
        config.optimizer.weight_decay = 0.1
    return config.lock()

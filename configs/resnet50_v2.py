"""ResNet-50 by torchvision's new recipe. The argument behind the colon chooses the data.

Data behind the colon:
  --config=resnet50_v2                 shapes, rendered on the fly
  --config=resnet50_v2:imagenet2012    tfds imagenet2012, prepared as array_record
  --config=resnet50_v2:folder          your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]
     and, at the end, at the size that the published number is of:
         jaxvision train --config=... --workdir=runs/a --mode=eval --config.data.image_size=224
           --config.data.eval_resize=232

Recipe of `:imagenet2012`: https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-
torchvision-latest-primitives: 600 epochs, batch 1024, SGD 0.5 with momentum 0.9 down a cosine, 5
warm-up epochs from a hundredth, weight decay 2e-5, label smoothing 0.1, mixup 0.2, cutmix 1,
TrivialAugment, erasing 0.1, images of 176 pixels augmented four times in a batch, average of the
weights. It gives 80.858 % there (IMAGENET1K_V2), where the old one gave 76.130 %. Theirs decays
biases, too. About 3,000 images a second and day-long runs: 768 million images in all.
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "resnet50"
    config.data.image_size = 176
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 2e-5
    config.loss.label_smoothing = 0.1
    config.augment.mixup_alpha = 0.2
    config.augment.cutmix_alpha = 1.0
    if data != "shapes":
        config.model.dtype = "bfloat16"
        common.set_source(config, data)
        config.data.eval_resize = 182  # 232 / 224 of the size
        config.augment.preset = "torchvision_v2"
        config.augment.repeats = 4
        config.batch_size = 1024
        config.eval_batch_size = 1024
        config.total_epochs = 600
        config.optimizer.learning_rate = 0.5
        config.schedule.warmup_epochs = 5
        config.schedule.warmup_factor = 0.01
        config.schedule.warmup_convention = "optax"
        config.ema_decay = 0.999966  # torchvision: 1 - 2e-5 * 1024 * 32 / 600, every 32 steps
        config.checkpoint.best_metric = "eval_ema/accuracy"
    else:
        common.small_data(config, data)
        config.augment.erasing = 0.1
        config.batch_size = 64
        config.optimizer.learning_rate = 0.05
    return config.lock()

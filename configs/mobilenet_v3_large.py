"""MobileNetV3-Large from scratch. The argument behind the colon chooses the data.

Data behind the colon:
  --config=mobilenet_v3_large                shapes, rendered on the fly
  --config=mobilenet_v3_large:imagenet2012   tfds imagenet2012, prepared as array_record
  --config=mobilenet_v3_large:folder         your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Howard et al. 2019, Searching for MobileNetV3; 5,483,032 parameters, 0.22 GMACs. Recipe of
`:imagenet2012`: torchvision's (references/classification), 600 epochs, batch 1024, RMSprop 0.064
times 0.973 every 2 epochs, weight decay 1e-5, AutoAugment, erasing 0.2; the mean of its last
checkpoints gives 74.042 % there (IMAGENET1K_V1; the paper 75.2 %), here there is an average of the
weights. Theirs decays every parameter; here normalisation and biases are not decayed. `:folder` is
GluonCV's for this network, SGD with Nesterov momentum down a cosine, for a smaller batch.
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "mobilenet_v3_large"
    config.data.image_size = 224
    config.optimizer.momentum = 0.9
    if data == "imagenet2012":
        common.set_source(config, data)
        config.optimizer.name = "rmsprop"
        config.optimizer.b2 = 0.9
        config.optimizer.eps = 0.0316
        config.optimizer.weight_decay = 1e-5
        config.optimizer.learning_rate = 0.064
        config.schedule.name = "step"
        config.schedule.step_epochs = 2
        config.schedule.step_factor = 0.973
        config.augment.policy = "auto_augment_imagenet"
        config.augment.erasing = 0.2
        config.batch_size = 1024
        config.eval_batch_size = 1024
        config.total_epochs = 600
        config.ema_decay = 0.9999
        config.checkpoint.best_metric = "eval_ema/accuracy"
    elif data == "folder":
        common.set_source(config, data)
        config.optimizer.name = "sgd"
        config.optimizer.weight_decay = 3e-5
        config.augment.color_jitter = (0.4, 0.4, 0.4, 0.0)
        config.loss.label_smoothing = 0.1
        config.batch_size = 128
        config.total_epochs = 360
        config.optimizer.learning_rate = 0.16
        config.schedule.warmup_epochs = 5
    else:
        common.small_data(config, data)
        config.optimizer.name = "adamw"  # the recipe's SGD needs more steps than these
        config.batch_size = 64
        config.total_steps = 2_000
        config.optimizer.learning_rate = 2e-3
    return config.lock()

"""EfficientNet-B0 from scratch. The argument behind the colon chooses the data.

Data behind the colon:
  --config=efficientnet_b0                shapes, rendered on the fly
  --config=efficientnet_b0:imagenet2012   tfds imagenet2012, prepared as array_record
  --config=efficientnet_b0:folder         your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: Tan and Le 2019, EfficientNet; 5,288,548 parameters, 0.39 GMACs. Recipe of `:imagenet2012`:
that of Radosavovic et al. 2020, Designing Network Design Spaces: 100 epochs, batch 256, SGD 0.4
with Nesterov momentum 0.9 down a cosine, weight decay 1e-5, 5 warm-up epochs, no dropping; it gives
75.1 % there, with noise in the colours that is left out here. The paper's 77.1 % and timm's 77.7 %
take four times as many epochs, RMSprop, stronger augmentation, averaged weights and the rates that
are set to 0 below.
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "efficientnet_b0"
    config.model.kwargs = dict(dropout_rate=0.0, drop_path_rate=0.0)
    config.data.image_size = 224
    config.data.interpolation = "bicubic"
    if data != "shapes":
        common.set_source(config, data)
        config.optimizer.name = "sgd"
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 1e-5
        config.batch_size = 256
        config.total_epochs = 100
        config.optimizer.learning_rate = 0.4
        config.schedule.warmup_epochs = 5
    else:
        common.small_data(config, data)
        config.optimizer.name = "adamw"  # the recipe's SGD needs more steps than these
        config.batch_size = 64
        config.total_steps = 2_000
        config.optimizer.learning_rate = 2e-3
    return config.lock()

"""ResNet-50 from scratch. The argument behind the colon chooses the data; the default needs none.

Data behind the colon:
  --config=resnet50                 shapes, rendered on the fly
  --config=resnet50:imagenet2012    tfds imagenet2012, prepared as array_record
  --config=resnet50:folder          your own images: <path>/<split>/<class>/*
Command: jaxvision train --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: He et al. 2016, Deep Residual Learning for Image Recognition; 25,557,032 parameters, 4.1
GMACs. Recipe of `:imagenet2012`: torchvision's base recipe (references/classification), 90
epochs, batch 256, SGD 0.1 with momentum 0.9, weight decay 1e-4, a tenth every 30 epochs; it gives
76.130 % there (IMAGENET1K_V1). Theirs decays every parameter and uses plain momentum; here
normalisation and biases are not decayed.
"""

from configs import common


def get_config(data: str = "shapes"):
    common.check_choice("data", data, "shapes", "imagenet2012", "folder")
    config = common.get_config()
    config.model.name = "resnet50"
    config.data.image_size = 224
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    if data != "shapes":
        common.set_source(config, data)
        config.batch_size = 256
        config.total_epochs = 90
        config.optimizer.learning_rate = 0.1
        config.schedule.name = "step"
        config.schedule.step_epochs = 30
    else:
        common.small_data(config, data)
        config.batch_size = 64
        config.total_steps = 2_000
        config.optimizer.learning_rate = 0.05
    return config.lock()

"""ResNet-50 from scratch. The argument behind the colon chooses the data; the default needs none.

Data behind the colon:
  --config=configs/resnet50.py                 shapes, rendered on the fly
  --config=configs/resnet50.py:imagenet2012    tfds imagenet2012, prepared as array_record
  --config=configs/resnet50.py:folder          your own images: <path>/<split>/<class>/*
Command: python launch.py --config=... --workdir=runs/a [--config.batch_size=32 ...]

Paper: He et al. 2016, Deep Residual Learning for Image Recognition; 25,557,032 parameters, 4.1
GMACs. Recipe of `:imagenet2012`: torchvision's base recipe (references/classification), 90
epochs, batch 256, SGD 0.1 with momentum 0.9, weight decay 1e-4, a tenth every 30 epochs; it gives
76.130 % there (IMAGENET1K_V1). Theirs decays every parameter and uses plain momentum; here
normalisation and biases are not decayed.
"""

from configs import common


def get_config(data: str = "shapes"):
    config = common.get_config()
    config.model.name = "resnet50"
    config.data.image_size = 224
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    if data in ("imagenet2012", "folder"):
        config.data.name = "tfds:imagenet2012" if data == "imagenet2012" else "folder"
        config.data.path = "" if data == "imagenet2012" else "data/images"
        config.data.eval_split = "validation" if data == "imagenet2012" else "test"
        config.batch_size = 256
        config.total_epochs = 90
        config.optimizer.learning_rate = 0.1
        config.schedule.name = "step"
        config.schedule.step_epochs = 30
    elif data == "shapes":
        config.data.name = "shapes"
        config.data.eval_resize = 0
        config.data.shapes.num_eval = 512
        config.augment.crop = "none"
        config.batch_size = 64
        config.eval_batch_size = 64
        config.total_steps = 2_000
        config.optimizer.learning_rate = 0.05
        config.schedule.warmup_steps = 200
        config.log.every_steps = 10
    else:
        raise ValueError(
            f"Unknown data '{data}' after the colon; choose shapes, imagenet2012 or folder."
        )
    return config.lock()

"""Caltech-101 from ImageNet's weights: which network transfers best? Behind the colon is its name.

  --config=caltech101                        resnet50
  --config=caltech101:mobilenet_v3_large     a fifth of the parameters
  --config=caltech101:efficientnet_b0        a fifth of the parameters, deeper
Data: tfds caltech101, prepared as array_record: 3,059 training and 6,085 test images of 102
classes, one of them background clutter (torchvision leaves it out and has 101); or a folder.
Command: jaxvision train --config=... --workdir=runs/a --config.model.init_from=resnet50.pth

3,059 images that look like ImageNet's: the second half of the network is trained (preset `half`),
by AdamW at 1e-4, the head at 1e-3, for 50 epochs in batches of 64, with a careful crop and
RandAugment. Expected: 93.3 % for ResNet-50 (mean of the classes; Chen et al. 2020, SimCLR, the
supervised rows), about as much for the other two (Kornblith et al. 2019, Do Better ImageNet Models
Transfer Better?); from random weights about 73 %. Minutes on one GPU.
"""

from configs import common

MODELS = ("resnet50", "mobilenet_v3_large", "efficientnet_b0")


def get_config(model: str = "resnet50"):
    common.check_choice("model", model, *MODELS)
    config = common.get_config()
    config.model.name = model
    config.data.name = "tfds:caltech101"
    config.data.image_size = 224
    config.augment.preset = "recommended"
    config.loss.label_smoothing = 0.1
    config.batch_size = 64
    config.eval_batch_size = 64
    config.total_epochs = 50
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.preset = "half"
    config.optimizer.head_multiplier = 10.0
    config.schedule.warmup_epochs = 2
    config.eval.every_steps = 200
    config.log.every_steps = 10
    return config.lock()

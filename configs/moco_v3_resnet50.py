"""MoCo v3: a ResNet-50 learns from images without their labels.

  --config=moco_v3_resnet50            on ImageNet, 300 epochs in batches of 4,096
  --config=moco_v3_resnet50:cifar10    a small one on 41,000 images of CIFAR-10, on 2 CPU cores
  --config=moco_v3_resnet50:shapes     the same on shapes, minutes; nothing to download
Data: <path>/train and <path>/val with one folder for each class; the labels are not used.
Command: jaxvision train --config=moco_v3_resnet50 --workdir=runs/moco
           --config.data.path=data/imagenet
Then:    jaxvision probe --weights=runs/moco

Chen et al. 2021, appendix A, and the paper's code: LARS, rate 0.3 for each 256 images of a batch,
weight decay 1e-6, 10 epochs of warm-up, temperature 1, momentum from 0.99 on, crops of 0.2 to 1, a
projector of two layers. Expected after 300 epochs: 72.8 % top-1 of a linear probe.
"""

from configs import common


def get_config(data: str = "imagenet"):
    config = common.get_config()
    config.model.name = "resnet50"
    common.momentum_contrast(config, data)
    config.moco.projector_layers = 2
    config.moco.predictor_norm = False
    if data == "imagenet":
        config.model.kwargs = dict(zero_init_last=False)
        config.augment.crop_scale = (0.2, 1.0)
        config.moco.temperature = 1.0
        config.optimizer.name = "lars"
        config.optimizer.nesterov = False
        config.optimizer.learning_rate = 0.3 * 4_096 / 256
        config.optimizer.weight_decay = 1e-6
        config.schedule.warmup_epochs = 10
    else:
        config.model.name = "resnet18"
        config.model.kwargs = dict(stem="cifar", first_stride=2, stage_widths=(32, 64, 128, 256))
        config.model.kwargs["stem_width"] = 32
    return config.lock()

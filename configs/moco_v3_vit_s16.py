"""MoCo v3: a ViT-S/16 learns from images without their labels.

  --config=moco_v3_vit_s16            on ImageNet, 300 epochs in batches of 4,096
  --config=moco_v3_vit_s16:cifar10    a small one on 41,000 images of CIFAR-10, on 2 CPU cores
  --config=moco_v3_vit_s16:shapes     the same on shapes, minutes; nothing to download
Data: <path>/train and <path>/val with one folder for each class; the labels are not used.
Command: jaxvision train --config=moco_v3_vit_s16 --workdir=runs/moco
           --config.data.path=data/imagenet
Then:    jaxvision probe --weights=runs/moco
         jaxvision train --config=deit_s16 --workdir=runs/tuned --config.data.path=data/imagenet
           --config.model.init_from=runs/moco --config.model.kwargs.num_heads=12

Chen et al. 2021, appendix A: AdamW, rate 1.5e-4 for each 256 images of a batch, weight decay 0.1,
40 epochs of warm-up, temperature 0.2, momentum from 0.99 on, 12 heads, the patches' projection as
it was drawn. Expected after 300 epochs: 73.2 % top-1 of a linear probe, 81.4 % fine-tuned by DeiT's
recipe. The paper's code decays biases and norms, too; here weight decay spares them.
"""

from configs import common


def get_config(data: str = "imagenet"):
    config = common.get_config()
    config.model.name = "vit_s16"
    common.momentum_contrast(config, data)
    if data == "imagenet":
        config.model.kwargs = dict(num_heads=12)
        config.optimizer.learning_rate = 1.5e-4 * 4_096 / 256
        config.optimizer.weight_decay = 0.1
        config.schedule.warmup_epochs = 40
    else:
        config.model.kwargs = dict(width=128, depth=4, num_heads=4, patch_size=4)
    return config.lock()

"""ViT on CIFAR-10: a small one from scratch, or ViT-B/16 with weights of ImageNet-21k.

  --config=vit_cifar10             from scratch, at 32 pixels
  --config=vit_cifar10:transfer    ViT-B/16 at 224 pixels, from given weights
Data: the CIFAR-10 python files (the folder or the .tar.gz).
Command: jaxvision train --config=... --workdir=runs/a --config.data.path=data/cifar-10-batches-py
           [--config.model.init_from=vit_base_patch16_224.augreg_in21k.safetensors]

From scratch: 2.7 million parameters, 100 epochs of AdamW 0.001 in batches of 128, 10 of them warm
up, weight decay 0.05, drop path 0.1, label smoothing 0.1, AutoAugment, mixup, cutmix. Lee et al.
2021, Vision Transformer for Small-Size Datasets, table 2, gives 93.6 % for it, with erasing and
each image augmented three times in a batch, as here; an hour or two on one GPU.
Transfer: Dosovitskiy et al. 2021, table 5 and the authors' repository: SGD 0.03 with momentum, a
cosine with 100 warm-up steps, no decay, clip 1, batch 512: 98.6 % after 500 steps, minutes on one
GPU.
"""

from configs import common


def get_config(start: str = "scratch"):
    common.check_choice("start", start, "scratch", "transfer")
    config = common.get_config()
    optimizer = config.optimizer
    if start == "scratch":
        common.cifar(config, "cifar10")
        config.model.name = "vit_ti16"
        config.model.kwargs = dict(
            patch_size=4,
            depth=9,
            num_heads=12,
            mlp_ratio=2.0,
            drop_path_rate=0.1,
            scan=common.either("auto"),
        )
        config.augment.policy = "auto_augment_cifar10"
        config.augment.erasing = 0.25
        config.augment.repeats = 3
        config.augment.mixup_alpha = 0.8
        config.augment.cutmix_alpha = 1.0
        config.loss.label_smoothing = 0.1
        config.batch_size = 128
        config.eval_batch_size = 500
        config.total_epochs = 100
        optimizer.learning_rate = 1e-3
        optimizer.weight_decay = 0.05
        config.schedule.warmup_epochs = 10
    else:
        common.set_source(config, "cifar10")
        config.model.name = "vit_b16"
        config.model.dtype = "bfloat16"
        config.model.kwargs = dict(scan=common.either("auto"), remat=False)
        config.data.image_size = 224
        config.data.eval_resize = 224
        config.augment.crop_scale = (0.05, 1.0)  # the authors' inception crop
        config.batch_size = 512
        config.eval_batch_size = 250
        config.total_steps = 500
        optimizer.name = "sgd"
        optimizer.nesterov = False
        optimizer.learning_rate = 0.03
        optimizer.weight_decay = 0.0
        optimizer.clip_norm = 1.0
        config.schedule.warmup_steps = 100
        config.eval.every_steps = 100
        config.log.every_steps = 10
    return config.lock()

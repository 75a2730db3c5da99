"""Masked autoencoder: a ViT learns from images without their labels.

  --config=mae_vit_b16            ViT-B/16 on ImageNet, 800 epochs in batches of 4,096
  --config=mae_vit_b16:cifar10    a small one on CIFAR-10, half an hour on 2 CPU cores
  --config=mae_vit_b16:shapes     the same on shapes, minutes; nothing to download
Data: <path>/train and <path>/val with one folder for each class; the labels are not used.
Command: jaxvision train --config=mae_vit_b16 --workdir=runs/mae
           --config.data.path=data/imagenet
Then:    jaxvision train --config=vit_b16 --workdir=runs/tuned
           --config.data.path=data/imagenet --config.model.init_from=runs/mae

He et al. 2022, appendix A.1, table 8: AdamW with b2 0.95, rate 1.5e-4 for each 256 images of a
batch, weight decay 0.05, 40 epochs of warm-up, crops of 0.2 to 1 and flips, normalised pixels. The
paper fine-tunes the encoder of 1,600 epochs to 83.6 % top-1 (table 1 has 82.1 % for random values).
"""

from configs import common


def get_config(data: str = "imagenet"):
    common.check_choice("data", data, "imagenet", "cifar10", "shapes")
    config = common.get_config()
    config.task = "masked_autoencoding"
    config.optimizer.b2 = 0.95
    config.optimizer.weight_decay = 0.05
    config.augment.crop_scale = (0.2, 1.0)
    config.checkpoint.best_metric = "eval/loss"
    if data == "imagenet":
        config.model.name = "mae_vit_b16"
        config.model.dtype = "bfloat16"
        config.data.name = "folder"
        config.data.path = "data/imagenet"
        config.data.train_split = "train"
        config.data.eval_split = "val"
        config.data.image_size = 224
        config.data.interpolation = "bicubic"
        config.batch_size = 4_096
        config.eval_batch_size = 1_000
        config.total_epochs = 800
        config.optimizer.learning_rate = 1.5e-4 * 4_096 / 256
        config.schedule.warmup_epochs = 40
    else:
        config.model.name = "mae_vit_s16"
        config.model.kwargs = dict(
            width=192,
            depth=6,
            num_heads=3,
            patch_size=4,
            decoder_width=96,
            decoder_depth=2,
            decoder_num_heads=3,
        )
        config.data.image_size = 32
        config.data.eval_resize = 32
        config.batch_size = 128
        config.eval_batch_size = 500
        config.total_epochs = 40
        config.optimizer.learning_rate = 1e-3
        config.schedule.warmup_epochs = 4
        config.eval.every_steps = 1_000
        if data == "cifar10":
            common.set_source(config, "cifar10")
        else:
            config.data.shapes.num_train = 20_000
            config.data.shapes.difficulty = "easy"
            config.total_epochs = 10
            config.schedule.warmup_epochs = 1
    return config.lock()

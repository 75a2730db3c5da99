"""What `make demo` runs: a small ViT with a convolutional stem learns to name shapes.

Data: `shapes`, rendered on the fly; nothing to download.
Command: jaxvision train --config=quickstart --workdir=runs/demo
"""

from configs import common


def get_config():
    config = common.get_config()
    config.model.name = "vit_ti16"
    config.model.kwargs = dict(
        width=128,
        depth=4,
        num_heads=4,
        patch_size=8,
        stem="conv",
        pool="average",
        class_token=False,
    )
    config.data.name = "shapes"
    config.data.image_size = 48
    config.data.eval_resize = 0
    config.data.shapes.num_train = 50_000
    config.data.shapes.num_eval = 2_000
    config.data.shapes.difficulty = "easy"
    config.augment.crop = "none"
    config.augment.horizontal_flip = 0.0
    config.batch_size = 64
    config.eval_batch_size = 200
    config.total_steps = 1_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_steps = 100
    config.checkpoint.every_steps = 500
    config.eval.every_steps = 250
    config.log.every_steps = 20
    return config.lock()

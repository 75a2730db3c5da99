"""30 steps of everything, in under a minute: what the end-to-end tests run.

Command: jaxvision train --config=smoke --workdir=runs/smoke
"""

from configs import common


def get_config():
    config = common.get_config()
    config.model.name = "vit_ti16"
    config.model.kwargs = dict(
        width=32, depth=2, num_heads=2, patch_size=8, dropout_rate=0.1, drop_path_rate=0.1
    )
    config.data.name = "shapes"
    config.data.image_size = 32
    config.data.eval_resize = 0
    config.data.num_threads = 2
    config.data.shapes.num_train = 400
    config.data.shapes.num_eval = 100
    config.data.shapes.difficulty = "easy"
    config.augment.crop = "none"
    config.augment.mixup_alpha = 0.2
    config.augment.mix_probability = 0.5
    config.batch_size = 16
    config.eval_batch_size = 48
    config.total_steps = 30
    config.optimizer.learning_rate = 5e-3
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_steps = 5
    config.ema_decay = 0.9
    config.checkpoint.every_steps = 10
    config.eval.every_steps = 15
    config.log.every_steps = 5
    return config.lock()

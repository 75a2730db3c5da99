"""A captioner that names two shapes, their colours and where one lies from the other.

Data: captions of `shapes`, rendered on the fly; nothing to download. No flips and no crops: they
would make the captions untrue.
Command: jaxvision train --config=caption_shapes --workdir=runs/shapes
The expected exact match and the time it took are in benchmarks/RESULTS.md.
"""

from configs import common


def get_config():
    config = common.get_config()
    common.captioning(config)
    config.model.kwargs = dict(
        encoder="vit_ti16",
        encoder_options=dict(width=128, depth=4, num_heads=4, patch_size=16, stem="conv"),
        width=128,
        depth=2,
        num_heads=4,
        hidden_width=512,
        dropout_rate=0.0,  # no image is seen twice
        attention_dropout_rate=0.0,
    )
    config.data.image_size = 64
    config.data.eval_resize = 0
    config.data.shapes.num_train = 1_000_000
    config.data.shapes.difficulty = "easy"
    config.caption.min_count = 1
    config.caption.max_length = 12
    config.augment.crop = "none"
    config.batch_size = 32
    config.eval_batch_size = 200
    config.total_steps = 8_500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_steps = 200
    config.checkpoint.every_steps = 1_700
    config.eval.every_steps = 1_700
    config.log.every_steps = 100
    return config.lock()

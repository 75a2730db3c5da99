"""A small CLIP from scratch: which sentence goes with which shape, minutes on 2 CPU cores.

Data: the `shapes` images with five captions each, from "a circle" to "a large red circle at the top
left on a gradient blue background"; nothing to download. The 1,000 images of the test split have
one caption each, all different. No flips and no crops: they would make the captions untrue.
Command: jaxvision train --config=clip_shapes --workdir=runs/clip
Then:    jaxvision zeroshot --run=runs/clip --data=shapes --templates "a {}"
         jaxvision zeroshot --run=runs/clip --data=shapes --label-column=color
           --templates "a {} shape"
  --config=clip_shapes:sigmoid    the same with SigLIP's loss
What they reach is in benchmarks/RESULTS.md.
"""

from configs import common


def get_config(loss: str = "softmax"):
    common.check_choice("loss", loss, "softmax", "sigmoid")
    config = common.get_config()
    common.image_text(config)
    config.model.name = "image_text"
    config.model.kwargs = dict(
        encoder="vit_ti16",
        encoder_options=dict(width=128, depth=4, num_heads=4, patch_size=16, stem="conv"),
        width=128,
        depth=2,
        num_heads=4,
        embed_width=128,
        loss=loss,
    )
    config.data.name = "one_shape"
    config.data.image_size = 64
    config.data.eval_resize = 0
    config.data.shapes.num_train = 1_000_000
    config.data.shapes.num_eval = 1_000
    config.data.shapes.difficulty = "easy"
    config.caption.min_count = 1
    config.caption.max_length = 20
    config.augment.crop = "none"
    config.batch_size = 128
    config.eval_batch_size = 200
    config.total_steps = 2_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.98
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_steps = 200
    config.checkpoint.every_steps = 500
    config.eval.every_steps = 500
    config.log.every_steps = 50
    return config.lock()

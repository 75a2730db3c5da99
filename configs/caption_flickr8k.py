"""Captions of Flickr8k, in four rungs that show what each step brings.

The rung behind the colon; each has all of those before it:
  --config=caption_flickr8k:pooled   the decoder sees the image as one vector
  --config=caption_flickr8k:grid     it looks at the cells of a grid, word by word
  --config=caption_flickr8k:beam     beam search instead of greedy decoding
  --config=caption_flickr8k          the full recipe: smoothing, dropout, averages
  --config=caption_flickr8k:small    the same from scratch, half an hour on a CPU
Beside them two small decoders for features computed once, see docs/captions.md:
  --config=caption_flickr8k:features          learns the words
  --config=caption_flickr8k:self_critical     goes on from there, on CIDEr itself
Data: <path>/captions_<split>.json in COCO's layout, beside images_<split>.zip or a folder; or, with
  --config.data.name=flickr, Flickr8k_text and Flickr8k_Dataset as they were published.
Command: jaxvision train --config=caption_flickr8k --workdir=runs/flickr
           --config.data.path=data/flickr8k --config.model.encoder_from=resnet50.pth

Papers: Hodosh et al. 2013 (data), Vaswani et al. 2017 (decoder). Batch, rates, warm-up, dropout and
decay are those of the CS231n captioning guide. What a run from scratch reaches on 2 CPU cores is in
benchmarks/RESULTS.md.
"""

from configs import common

RUNGS = ("pooled", "grid", "beam", "full", "small", "features", "self_critical")


def get_config(rung: str = "full"):
    common.check_choice("rung", rung, *RUNGS)
    reached = RUNGS[: RUNGS.index(rung) + 1]
    config = common.get_config()
    common.captioning(config)
    config.model.kwargs = dict(
        encoder="resnet50",
        memory="grid" if "grid" in reached else "pooled",
        width=512,
        depth=2,
        num_heads=8,
        hidden_width=2048,
    )
    config.data.name = "coco_captions"
    config.data.path = "data/flickr8k"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = 224
    config.augment.crop_scale = (0.5, 1.0)  # a smaller part may lose what the caption tells
    config.batch_size = 64
    config.eval_batch_size = 64
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 1.0
    config.total_epochs = 100  # passes over the images, with one of the five captions each time
    config.schedule.warmup_steps = 4_000
    config.eval.every_steps = 500
    if "beam" in reached:
        config.caption.num_beams = 3
    if "full" in reached:
        config.model.kwargs.dropout_rate = 0.1
        config.model.kwargs.attention_dropout_rate = 0.1
        config.loss.label_smoothing = 0.1
        config.ema_decay = 0.999
        config.checkpoint.best_metric = "eval_ema/cider"
    if rung == "small":
        config.model.kwargs.update(
            encoder="resnet18",
            # Three stages leave a grid of 6 x 6 cells.
            encoder_options=dict(stage_depths=(2, 2, 2), stage_widths=(32, 64, 128)),
            width=256,
            num_heads=4,
            hidden_width=1024,
            dropout_rate=0.2,
        )
        config.data.image_size = 96
        config.data.eval_resize = 96  # captions tell of the borders, too
        config.augment.horizontal_flip = 0.5  # few of these captions name a side
        config.caption.max_length = 24  # 1.3 % of the captions are longer
        config.total_epochs = 15
        config.optimizer.learning_rate = 1e-3
        config.schedule.warmup_steps = 200
        config.ema_decay = 0.99
        config.eval.every_steps = 350
    if "features" in reached:
        config.model.kwargs = dict(
            width=384,
            depth=2,
            num_heads=6,
            hidden_width=1536,
            dropout_rate=0.3,
            attention_dropout_rate=0.1,
        )
        config.caption.max_length = 24
        config.total_epochs = 30
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.05
        config.schedule.warmup_steps = 300
        config.ema_decay = 0.995
        config.eval.every_steps = 470
    if "self_critical" in reached:
        config.model.kwargs.update(dropout_rate=0.0, attention_dropout_rate=0.0)
        config.caption.self_critical_samples = 5
        config.loss.label_smoothing = 0.0
        config.total_epochs = 10
        config.optimizer.learning_rate = 3e-5
        config.schedule.warmup_steps = 20
        config.eval.every_steps = 188
    return config.lock()

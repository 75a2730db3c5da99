"""Flickr8k: a text encoder learns to find images that a trained network describes, or to be found.

  --config=clip_flickr8k:features   on features that were computed once, minutes on 2 CPU cores
  --config=clip_flickr8k            the network stays frozen, and images are augmented
Data: <path>/captions_<split>.json in COCO's layout, beside images_<split>.zip or a folder; or, with
  --config.data.name=flickr, Flickr8k_text and Flickr8k_Dataset as they were published.
Command: jaxvision embed --weights=resnet50.a1_in1k --data=coco_captions --path=data/flickr8k
           --kind=pooled --out=data/flickr8k/pooled
         jaxvision train --config=clip_flickr8k:features --workdir=runs/clip_flickr
           --config.data.path=data/flickr8k --config.data.features=data/flickr8k/pooled
     or: jaxvision train --config=clip_flickr8k --workdir=runs/clip_flickr
           --config.data.path=data/flickr8k --config.model.encoder_from=resnet50.a1_in1k

Zhai et al. 2022, LiT: the image network is locked, the text encoder is trained beside it. Of each
evaluation image all five captions are looked for, and look for it.
"""

from configs import common


def get_config(rung: str = "frozen"):
    common.check_choice("rung", rung, "frozen", "features")
    config = common.get_config()
    common.image_text(config)
    config.model.name = "image_text"
    config.model.kwargs = dict(
        encoder="resnet50",
        freeze_encoder=True,
        width=256,
        depth=3,
        num_heads=4,
        embed_width=256,
        dropout_rate=0.2,
    )
    config.data.name = "coco_captions"
    config.data.path = "data/flickr8k"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = 224
    config.augment.crop_scale = (0.5, 1.0)  # a smaller part may lose what the caption tells
    config.caption.max_length = 24
    config.caption.min_count = 3
    config.batch_size = 256
    config.eval_batch_size = 256
    config.total_epochs = 30  # passes over the images, with one of the five captions each time
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.b2 = 0.98
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_steps = 100
    config.ema_decay = 0.99
    config.checkpoint.best_metric = "eval_ema/image_r1"
    config.eval.every_steps = 120
    if rung == "features":
        config.model.kwargs.freeze_encoder = False  # there is none
    return config.lock()

"""CLIP ViT-B/16, as its authors trained it: 32 passes over the data in batches of 32,768.

  --config=clip_vit_b16             the softmax loss
  --config=clip_vit_b16:siglip      SigLIP ViT-B/16: the loss of a yes or no for each pair
Data: images with captions in COCO's layout, <path>/captions_<split>.json beside the images; the
  authors had 400 million pairs. The tokenizer is that of the published models: the folder of one,
  or CLIP's bpe_simple_vocab_16e6.txt.gz.
Command: jaxvision train --config=clip_vit_b16 --workdir=runs/clip --config.data.path=data/coco
           --config.caption.vocabulary=clip-vit-base-patch16

Radford et al. 2021, section 2.5 and table 18: Adam with b2 0.98 and epsilon 1e-6, rate 5e-4,
decoupled weight decay 0.2, 2,000 updates of warm-up, a cosine, square crops alone, a scale that
starts at 1 / 0.07 and stops at 100. Zhai et al. 2023, section 4: b2 0.95, weight decay 1e-4, rate
1e-3, texts of 64 tokens, a scale that starts at 10 and a bias at -10.
"""

from configs import common


def get_config(family: str = "clip"):
    common.check_choice("family", family, "clip", "siglip")
    config = common.get_config()
    common.image_text(config)
    config.model.dtype = "bfloat16"
    config.data.name = "coco_captions"
    config.data.path = "data/coco"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = 224
    config.data.interpolation = "bicubic"
    config.augment.crop_scale = (0.9, 1.0)
    config.batch_size = 32_768
    config.eval_batch_size = 1_024
    config.total_epochs = 32
    config.ema_decay = 0.0
    config.eval.every_steps = 1_000
    if family == "clip":
        config.model.name = "clip_vit_b16"
        config.caption.max_length = 77
        config.optimizer.learning_rate = 5e-4
        config.optimizer.weight_decay = 0.2
        config.optimizer.b2 = 0.98
        config.optimizer.eps = 1e-6
        config.schedule.warmup_steps = 2_000
    else:
        config.model.name = "siglip_vit_b16_224"
        config.caption.max_length = 64
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 1e-4
        config.optimizer.b2 = 0.95
        config.optimizer.clip_norm = 1.0
        config.schedule.warmup_steps = 2_000
    return config.lock()

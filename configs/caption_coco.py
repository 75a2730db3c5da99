"""A captioner for COCO: a CNN or ViT with weights of its own, and a Transformer decoder.

Data: <path>/annotations/captions_<split>.json beside <path>/<split> (folder or zip of images).
Command: jaxvision train --config=caption_coco --workdir=runs/coco
           --config.data.path=data/coco --config.model.encoder_from=resnet50.pth
Second stage, on CIDEr itself (weeks on a CPU, a day on a GPU):
         jaxvision train --config=caption_coco:self_critical --workdir=runs/coco_scst
           --config.data.path=data/coco --config.model.init_from=runs/coco

Papers: Vaswani et al. 2017 (decoder), Xu et al. 2015 (attention to a grid), Rennie et al. 2017
(self-critical). Batch, rates, warm-up, dropout and decay are those of the CS231n captioning guide.
"""

from configs import common


def get_config(stage: str = "words"):
    common.check_choice("stage", stage, "words", "self_critical")
    config = common.get_config()
    common.captioning(config)
    config.model.kwargs = dict(
        encoder="resnet50",
        width=512,
        depth=4,
        num_heads=8,
        hidden_width=2048,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
    )
    config.data.name = "coco_captions"
    config.data.path = "data/coco"
    config.data.train_split = "train2017"
    config.data.eval_split = "val2017"
    config.data.image_size = 224
    config.augment.crop_scale = (0.5, 1.0)  # a smaller part may lose what the caption tells
    config.caption.num_beams = 3
    config.batch_size = 128
    config.eval_batch_size = 128
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 1.0
    config.total_epochs = 30
    config.schedule.warmup_steps = 4_000
    config.eval.every_steps = 2_000
    if stage == "self_critical":
        config.caption.self_critical_samples = 5
        config.loss.label_smoothing = 0.0
        config.batch_size = 64
        config.total_epochs = 10
        config.optimizer.learning_rate = 1e-5
        config.schedule.name = "constant"
        config.schedule.warmup_steps = 0
    return config.lock()

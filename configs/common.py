"""The schema: every option of a run, its default, and one comment with its unit and meaning.

A config file calls `common.get_config()`, changes what its recipe needs and returns the result.
The config is locked, so a mistyped option fails with a suggestion instead of being ignored. A
length may be given in steps or in epochs; where both exist, exactly one of them is above 0.
"""

import ml_collections
from ml_collections.config_dict import FieldReference


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of every option."""
    d = ml_collections.ConfigDict
    config = d()
    config.seed = 0  # of initialisation, data order, augmentation and dropout
    # classification | multi_label | captioning | image_text | masked_autoencoding
    # | momentum_contrast
    config.task = "classification"

    config.model = d()
    config.model.name = "vit_s16"  # `jaxvision models` lists them
    config.model.num_classes = 0  # 0: as many as the training data has; unused by captions
    # Compute dtype: float32 | bfloat16 | float16 (with a dynamic loss scale); parameters: float32.
    config.model.dtype = "float32"
    config.model.init_from = ""  # weights to start from: a file, a run, hub:owner/name; "": random
    config.model.init_part = ""  # which weights of a file that has several, e.g. teacher
    config.model.encoder_from = ""  # the same for the encoder of a captioner
    config.model.adapter_from = ""  # folder of a peft adapter (LoRA), to change them by; "": none
    # pixels, or (height, width), of the images that these weights belong to; 0: as they say
    config.model.init_image_size = FieldReference(0, field_type=object)
    # BatchNorms that evaluate in training too: frozen (those of frozen parts) | all | none
    config.model.freeze_batch_stats = "frozen"
    config.model.kwargs = d()  # further fields of the family's config, e.g. drop_path_rate

    config.data = d()
    # images: shapes folder list tar cifar10 cifar100 array_record tfds:<name> hf:<name or folder>;
    # captions: shapes one_shape coco_captions flickr cs231n_coco
    config.data.name = "shapes"
    config.data.path = ""  # the folder, zip or file that holds the data
    # Sub-folder, zip, shards, csv or tfds split; a share of it: train[:80%], train[80%:].
    config.data.train_split = "train"
    # The same, of the images to evaluate on; 10%: of the training split, the rest of it trains.
    config.data.eval_split = "test"
    config.data.image_column = ""  # of hf:; "": the only one of type Image
    config.data.label_column = ""  # of hf:; "": the only one of type ClassLabel; shapes: color
    config.data.images = ""  # of captions: folder or zip, below the path; "": looked for there
    config.data.features = ""  # of captions: folder of precomputed features, <folder>/<split>
    config.data.skip_missing = False  # leave out captions whose image is not there
    config.data.label_separator = ";"  # multi_label: between the names in a cell of a table
    # How often a class of n images is drawn: uniform (n) | balanced (1) | sqrt | p of n^p, in 0..1.
    config.data.sampling = either("uniform")
    config.data.image_size = FieldReference(
        224, field_type=object
    )  # pixels: int or (height, width)
    # Of the training images, ((epoch, pixels), ...): from then on; each size compiles once. (): as
    # above. An evaluation, and what comes before the first epoch given, has the size above.
    config.data.image_size_schedule = ()
    # Processes that decode, each of which holds a few whole batches; 0: threads only, enough for
    # most machines.
    config.data.num_workers = 0
    config.data.num_threads = 16  # threads that decode, in each process
    config.data.prefetch_examples = 512  # decoded examples held ready, in each process
    config.data.max_corrupt_fraction = 0.01  # of the examples read; above it the run stops
    config.data.max_pixels = 89_478_485  # larger images count as corrupt (decompression bombs)
    config.data.exif_orientation = False  # turn photos by their EXIF data; torchvision does not
    # Of large JPEGs in training: at 1/2, 1/4 or 1/8 where random_resized makes the part smaller.
    config.data.reduced_decoding = False
    # Of the images, "auto", -1 and () mean: as the weights of init_from want it, else as follows.
    config.data.eval_resize = -1  # pixels before the crop, 0: none; -1: 8/7 of image_size
    config.data.eval_crop = "auto"  # center: keeps the aspect ratio | squash; auto: center
    # Of both resizes: bilinear | bicubic | nearest | lanczos; auto: bilinear.
    config.data.interpolation = "auto"
    config.data.mean = ()  # of red, green and blue in 0..1; (): as the published model
    config.data.std = ()  # deviation, likewise
    config.data.shapes = d()  # the built-in data
    config.data.shapes.num_train = 50_000  # images
    config.data.shapes.num_eval = 2_000  # images
    config.data.shapes.difficulty = "medium"  # easy | medium | hard

    config.caption = d()  # tasks captioning and image_text
    # Of image_text a tokenizer, too (CLIP's, SigLIP's); "": made from the training captions
    config.caption.vocabulary = ""
    config.caption.tokens = "words"  # words | subwords (BPE, needs the extra `subword`)
    config.caption.min_count = 5  # words: rarer ones become <UNK>
    config.caption.vocabulary_size = 4_000  # subwords: tokens in all
    config.caption.max_length = 30  # tokens of a caption, <START> and <END> among them
    config.caption.strict_length = False  # refuse longer captions instead of cutting them
    config.caption.num_beams = 1  # of the captions of an evaluation; 1: greedy
    config.caption.length_penalty = 1.0  # exponent of a beam's length; above 0 favours longer ones
    config.caption.repetition_penalty = 1.0  # above 1: words that were said are less likely
    config.caption.no_repeat_ngram_size = 0  # words that never follow each other twice; 0: off
    config.caption.self_critical_samples = 0  # an image, scored by CIDEr; 0: learn the true words

    config.moco = d()  # task momentum_contrast
    config.moco.temperature = 0.2  # that cosines of queries and keys are divided by
    config.moco.momentum = 0.99  # share of itself that the momentum encoder keeps in the first step
    config.moco.momentum_schedule = "cosine"  # of that share: cosine: it rises to 1 | constant
    config.moco.projector_layers = 3  # behind the encoder; 2 in the paper's ResNets
    config.moco.hidden_width = 4_096  # channels between the layers of projector and predictor
    config.moco.output_width = 256  # channels of what is contrasted
    config.moco.predictor_norm = (
        True  # end the predictor in a BatchNorm; not in the paper's ResNets
    )
    config.moco.freeze_patches = True  # keep the first layer of a ViT as it was drawn

    config.augment = d()
    # basic | recommended | deit | torchvision_v2 | small_data; moco_v3: two views of each image,
    # cut by crop_scale; "": the options down to erasing
    config.augment.preset = ""
    config.augment.crop = "random_resized"  # random_resized | pad (CIFAR) | center | none
    config.augment.crop_scale = (0.08, 1.0)  # share of the area that random_resized keeps
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # width / height of that crop
    config.augment.crop_antialias = False  # torchvision's pixels exactly, several times as slow
    config.augment.crop_padding = 4  # pixels added on each side by pad
    config.augment.crop_border = "black"  # of pad: black | reflect: mirrored at the edge
    config.augment.horizontal_flip = 0.5  # probability
    # Not at random: half of the images in the first pass, and in each pass those not in the last.
    config.augment.alternating_flip = False
    config.augment.vertical_flip = 0.0  # probability
    config.augment.rotation = 0.0  # degrees at most, to either side
    config.augment.shift_scale_rotate = (0.0, 0.0, 0.0)  # shares and degrees at most, half the time
    config.augment.perspective = 0.0  # of half a side, how far corners go at most; half the time
    config.augment.rand_augment_layers = 0  # operations per image; 0: off
    config.augment.rand_augment_magnitude = 9  # of 0..30
    # trivial_augment | auto_augment_imagenet/_cifar10/_svhn | aug_mix | three_augment; "": none
    config.augment.policy = ""
    config.augment.color_jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    config.augment.grayscale = 0.0  # probability
    config.augment.blur = 0.0  # probability; 3 pixels wide
    config.augment.noise = 0.0  # probability; of a variance of 10 to 50 squared levels
    config.augment.erasing = 0.0  # probability that a box gets the mean colour
    # Do it in the step, not on the host, as far as docs/augmentation.md lists it.
    config.augment.on_device = False
    # Pixels of the squares that the host sends, for random_resized on the device; 0: the host crops
    config.augment.stored_size = 0
    config.augment.repeats = 1  # times that each record is in a batch, augmented anew each time
    config.augment.mixup_alpha = 0.0  # of the Beta distribution; 0: off
    config.augment.cutmix_alpha = 0.0  # of the Beta distribution; 0: off
    config.augment.mix_probability = 1.0  # that a batch is mixed at all
    config.augment.cutmix_probability = 0.5  # that a mixed batch gets cutmix when both are on

    config.batch_size = 256  # examples of one update, over all devices
    config.eval_batch_size = 256  # examples, over all devices
    config.total_steps = 0  # updates
    config.total_epochs = 0.0  # passes over the training split
    config.accumulate_steps = 1  # micro-batches that one update is computed in

    config.loss = d()
    # softmax_cross_entropy | bce | focal | sigmoid_focal; multi_label: bce | sigmoid_focal
    # | asymmetric
    config.loss.name = "softmax_cross_entropy"
    config.loss.label_smoothing = 0.0  # epsilon, probability mass that the true class does not get
    config.loss.smoothing_over = "all"  # all K classes, as torch does | wrong: only those
    config.loss.target_threshold = 0.0  # of bce: labels above it are 1, others 0; 0: as they are
    config.loss.focal_gamma = 2.0  # of the focal losses: exponent; more, and hard ones count more
    config.loss.focal_alpha = 0.25  # of sigmoid_focal: weight of what is there; below 0: none
    config.loss.gamma_negative = 4.0  # of asymmetric: exponent of what is not there
    config.loss.gamma_positive = 1.0  # of asymmetric: exponent of what is there
    config.loss.negative_clip = 0.05  # of asymmetric: what is not there counts from this share on
    # Of each class: none | balanced (1 / its images) | effective (Cui 2019) | (1.0, 2.5, ...).
    # multi_label: of where it is there: none | balanced (images without it / with it) | numbers.
    config.loss.class_weights = either("none")
    config.loss.effective_beta = 0.9999  # of effective; 0: as none, near 1: as balanced
    # Of the softmax losses: tau, of log(share of the class) added to logits in training; 0: off.
    config.loss.logit_adjustment = 0.0

    config.distill = d()  # a teacher, whose classes are those of the data
    config.distill.teacher_weights = ""  # a file, a run, hub:owner/name; "": no teacher
    config.distill.teacher = ""  # its model; "": of a run, its own
    config.distill.loss = "soft"  # its probabilities | hard: its first choice | none: features only
    config.distill.alpha = 0.5  # its share of the loss; the labels have the rest
    config.distill.temperature = 1.0  # of soft: above 1, more of how it ranks the wrong classes
    config.distill.image_size = FieldReference(0, field_type=object)  # pixels; 0: the student's
    # pixels, or (height, width), of the images that its weights belong to; 0: as they say
    config.distill.teacher_image_size = FieldReference(0, field_type=object)
    config.distill.features = "none"  # compare maps of both, too: mse | cosine | none
    config.distill.feature_stride = 0  # pixels between places of these maps; 0: the last of both
    config.distill.feature_weight = 1.0  # of their loss, on top of the rest

    config.optimizer = d()
    # adamw | adam | sgd | rmsprop | rmsprop_tf | lamb | lion | muon | nadamw | adan | adopt | lars
    # | prodigy | schedule_free_adamw | schedule_free_sgd
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3  # peak
    # Decoupled and scaled by the learning rate; adam, both sgd, lars and the rmsprops: L2 (torch).
    config.optimizer.weight_decay = 0.05
    config.optimizer.momentum = 0.9  # sgd, rmsprop, rmsprop_tf, muon, lars, schedule_free_sgd
    config.optimizer.nesterov = True  # sgd, muon, lars
    config.optimizer.b1 = 0.9  # of Adam and its kin; muon: of what is no matrix
    config.optimizer.b2 = 0.999  # of Adam and its kin; alpha of the rmsprops
    config.optimizer.adan_betas = (0.98, 0.92, 0.99)  # of gradients, differences, squares
    config.optimizer.eps = 1e-8  # beside the root; rmsprop_tf: under it
    # Sharpness-aware: the gradient is taken this far uphill, at twice the cost; 0: off
    config.optimizer.sam_rho = 0.0
    config.optimizer.sam_adaptive = False  # ASAM: uphill in units of each weight
    config.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: off
    config.optimizer.clip_factor = 0.0  # adaptive: gradient / weight, of each output; 0: off
    # What is trained: ((regex of a parameter path, {"frozen": True}), (regex, {"learning_rate":
    # multiplier, "weight_decay": multiplier, "schedule": {"name": "constant", ...: options of
    # config.schedule that are others here}}), ...); the first that matches decides.
    config.optimizer.rules = ()
    # Of what no rule matches: head | late | half | most | full_low_lr | full | lp_ft | bitfit
    # | lora | ia3, see docs/transfer.md
    config.optimizer.preset = "full"
    config.optimizer.unfreeze = ()  # ((epoch, preset or regex), ...): frozen until then
    config.optimizer.layer_decay = 1.0  # learning rate of a layer / that of the one behind; 1: off
    config.optimizer.part_multipliers = ()  # of equal parts of the trunk, e.g. (0.1, 0.3, 0.6, 1.0)
    config.optimizer.head_multiplier = 1.0  # learning rate of the head, on top of the rest

    config.adapter = d()  # of optimizer.preset lora and ia3
    # Regex of the kernels of linear layers and 1x1 convolutions that get one; "": lora: all outside
    # the head; ia3: keys, values, and what goes into fc2.
    config.adapter.targets = ""
    config.adapter.rank = 8  # of lora
    config.adapter.alpha = 8.0  # of lora: the change is alpha / rank times the product
    config.adapter.rank_stabilized = False  # of lora: alpha / the root of rank (rsLoRA) instead
    config.adapter.dropout = 0.0  # of lora: probability that it does not see an input

    config.schedule = d()
    # warmup_cosine | cosine_restarts | linear | polynomial | one_cycle | exponential | step
    # | multi_step | plateau | constant
    config.schedule.name = "warmup_cosine"
    _add_length(config.schedule, "warmup")  # linear rise: warmup_steps, warmup_epochs, ...
    config.schedule.warmup_convention = "torch"  # torch: first rate is peak/warmup; optax: factor
    config.schedule.warmup_factor = 0.0  # share of the peak that the warmup starts from
    _add_length(config.schedule, "cooldown")  # last updates, linear fall: cooldown_steps, ...
    config.schedule.end_learning_rate = 0.0  # where cosines, lines, polynomials, cooldown end
    _add_length(config.schedule, "step")  # step: between two drops, exponential: for one factor
    config.schedule.step_factor = 0.1  # step, multi_step, exponential: factor of a drop
    _add_length(config.schedule, "milestone", several=True)  # multi_step: milestone_epochs, ...
    config.schedule.power = 1.0  # polynomial
    _add_length(config.schedule, "restart")  # cosine_restarts: the first cosine: restart_steps, ...
    config.schedule.restart_factor = 1  # cosine_restarts: how much longer each cosine is
    config.schedule.one_cycle_rise = 0.3  # one_cycle: share of the run before the peak
    config.schedule.one_cycle_anneal = "cosine"  # one_cycle: cosine | linear
    config.schedule.one_cycle_start_factor = 0.04  # one_cycle: start as a share of the peak
    config.schedule.one_cycle_end_factor = 1e-4  # one_cycle: end as a share of the start

    # plateau: the rate drops when a metric of the evaluations no longer improves.
    config.schedule.plateau_metric = "eval/loss"
    config.schedule.plateau_mode = "auto"  # what is better: min | max | auto: min of losses
    config.schedule.plateau_factor = 0.1  # of a drop
    config.schedule.plateau_patience = 10  # evaluations without improvement that are waited for
    config.schedule.plateau_threshold = 1e-4  # smaller improvements count for nothing
    config.schedule.plateau_threshold_mode = "rel"  # rel: share of the best | abs: of the metric
    config.schedule.plateau_cooldown = 0  # evaluations after a drop in which nothing counts
    config.schedule.plateau_min_learning_rate = 0.0  # lowest peak that it drops to

    config.early_stopping = d()  # ends the run when a metric no longer improves
    config.early_stopping.patience = 0  # evaluations without improvement; 0: off
    config.early_stopping.metric = "eval/loss"  # of the evaluations, or eval_ema/...
    config.early_stopping.mode = "auto"  # what is better: min | max | auto: min of losses
    config.early_stopping.min_delta = 0.0  # of the metric; smaller improvements count for nothing

    config.find_lr = d()  # --mode=find_lr: the rate rises exponentially from step to step
    config.find_lr.start_rate = 1e-7  # learning rate of the first step
    config.find_lr.end_rate = 10.0  # learning rate of the last step
    config.find_lr.num_steps = 100  # updates
    config.find_lr.smoothing = 0.98  # weight of the past in the average of the losses
    config.find_lr.stop_factor = 4.0  # the test ends where the loss is this many times its best

    config.swa = d()  # stochastic averaging: the mean of weights along the last part of the run
    _add_length(config.swa, "start")  # before the first weights that count: start_percent=75, ...
    _add_length(config.swa, "every")  # between two of them: every_steps, ...; none: an epoch
    config.swa.learning_rate = 0.0  # constant, from the start on; 0: the schedule goes on
    _add_length(config.swa, "anneal")  # in which the rate goes there: anneal_epochs, ...
    config.swa.curve = "cosine"  # of that: cosine | linear
    config.swa.batch_norm_batches = 50  # of training, that the average's BatchNorms are measured on

    config.ema_decay = 0.0  # of the averaged parameters; 0: off
    config.ema_warmup = True  # use min(decay, (1 + step) / (10 + step))
    config.max_skipped_steps = 10  # non-finite steps in a row before the run stops

    # Resume although options that shape the run, or its data, are others than when it stopped.
    config.resume_changed = False
    config.deterministic = False  # on a GPU: the same bits in every run, at some cost in speed

    config.mesh = d()
    config.mesh.data = -1  # devices along the batch; -1: all that remain
    config.mesh.fsdp = 1  # devices that the parameters are split over as well
    config.sharding_rules = ()  # ((regex of a parameter path, (axis or None, ...)), ...)

    config.checkpoint = d()
    # Between two: every_steps, every_epochs, ...; none: only after an evaluation.
    _add_length(config.checkpoint, "every", steps=1_000)
    config.checkpoint.keep = 2  # latest kept, beside the best one; 2, as one may be damaged
    config.checkpoint.best_metric = "eval/accuracy"  # most is best, of a loss least; eval_ema/...

    config.eval = d()
    # Between two: every_steps, every_epochs, ...; none: only at the end.
    _add_length(config.eval, "every", steps=1_000)
    # --mode=eval: training batches that BatchNorms are measured on before; 0: as they are
    config.eval.batch_norm_batches = 0
    # Of the evaluation split: names (those of the training split) | indices (labels, as in
    # ImageNet-V2, whose folders are 0 to 999).
    config.eval.class_folders = "names"
    # Of tasks without labels: how good features are by the labels of the data: knn (20 neighbours)
    # and probe (a linear classifier); of the evaluation split, by 10,000 training images.
    config.eval.features = ()
    # The rest is of --mode=eval alone, for classifiers.
    config.eval.tta = (
        "none"  # views whose logits are averaged: none | flip | flip_shift | five_crop | ten_crop
    )
    config.eval.ensemble = ()  # runs and files of weights to average probabilities with
    config.eval.real_labels = ""  # real.json of ImageNet-ReaL; "": none

    config.log = d()
    _add_length(config.log, "every", steps=50)  # between two lines: every_steps, ...
    config.log.to = ("tensorboard",)  # beside metrics.jsonl: tensorboard, wandb, mlflow
    config.log.report = True  # write report.html at the end; it evaluates every class once more

    config.compilation_cache = "~/.cache/jaxvision"  # folder of compiled programs; "": off
    config.lock()  # a mistyped option fails in a config file too
    config.model.kwargs.unlock()
    return config


def either(default: object) -> FieldReference:
    """Returns a default that the command line may replace by a value of another type."""
    return FieldReference(default, field_type=object)


def _add_length(
    options: ml_collections.ConfigDict, name: str, *, several: bool = False, steps: int = 0
) -> None:
    """Adds one length in four units, of which at most one is given; 0 or (): none."""
    options[f"{name}_steps"] = () if several else steps  # updates
    options[f"{name}_epochs"] = () if several else 0.0  # passes over the training split
    options[f"{name}_examples"] = () if several else 0  # training examples seen
    options[f"{name}_percent"] = () if several else 0.0  # of the run


PATHS = {
    "folder": "data/images",
    "cifar10": "data/cifar-10-batches-py",
    "cifar100": "data/cifar-100-python",
}


def check_choice(what: str, given: str, *choices: str) -> None:
    """Refuses an argument behind the colon that the recipe card does not have."""
    if given not in choices:
        *others, last = choices
        raise ValueError(
            f"Unknown {what} '{given}' after the colon; choose {', '.join(others)} or {last}."
        )


def set_source(config: ml_collections.ConfigDict, data: str) -> None:
    """Sets where the images are: shapes | folder | cifar10 | cifar100 | imagenet2012."""
    if data == "imagenet2012":
        config.data.name = "tfds:imagenet2012"
        config.data.eval_split = "validation"
    else:
        config.data.name = data
        config.data.path = PATHS.get(data, "")


def small_data(config: ml_collections.ConfigDict, data: str) -> None:
    """Trains a model of ImageNet's size on shapes, cifar10 or a folder instead.

    The rates are those of a transformer by AdamW; a CNN that learns shapes sets its own after this.
    """
    set_source(config, data)
    config.data.shapes.num_eval = 512
    config.eval_batch_size = 64
    config.schedule.warmup_steps = 200
    config.log.every_steps = 10
    if data == "shapes":
        config.data.eval_resize = 0  # shapes have no border to cut off
        config.augment.crop = "none"
        config.batch_size = 16  # on a CPU, too, the first loss comes in a minute
        config.total_steps = 4_000
        config.optimizer.learning_rate = 1e-4
    else:
        config.augment.rand_augment_layers = 2
        config.batch_size = 64
        config.total_epochs = 100
        config.optimizer.learning_rate = 3e-4


def cifar(config: ml_collections.ConfigDict, data: str) -> None:
    """Reads cifar10 or cifar100 at its own 32 pixels, with the padded crop that is usual there."""
    set_source(config, data)
    config.data.image_size = 32
    config.data.eval_resize = 0
    config.augment.crop = "pad"


def multi_label(config: ml_collections.ConfigDict) -> None:
    """Trains with several labels an image, and keeps the checkpoint with the best mean precision.

    A table of the images is read by config.data.name list or folder.
    """
    config.task = "multi_label"
    config.loss.name = "bce"
    config.checkpoint.best_metric = "eval/map"


def momentum_contrast(config: ml_collections.ConfigDict, data: str) -> None:
    """Trains without labels by MoCo v3: on ImageNet, or a small trunk on cifar10 or shapes."""
    check_choice("data", data, "imagenet", "cifar10", "shapes")
    config.task = "momentum_contrast"
    config.augment.preset = "moco_v3"
    config.checkpoint.best_metric = "eval/loss"
    if data == "imagenet":
        config.model.dtype = "bfloat16"
        config.data.name = "folder"
        config.data.path = "data/imagenet"
        config.data.eval_split = "val"
        config.batch_size = 4_096
        config.eval_batch_size = 1_000
        config.total_epochs = 300
        return
    set_source(config, data)
    config.data.train_split = "train[:82%]" if data == "cifar10" else "train"  # 41,000 images
    config.data.shapes.num_train = 20_000
    config.data.shapes.difficulty = "easy"
    config.data.image_size = 32
    config.data.eval_resize = 32
    config.augment.crop_scale = (0.2, 1.0)
    config.moco.hidden_width = 512
    config.moco.output_width = 128
    config.batch_size = 256
    config.eval_batch_size = 500
    config.total_epochs = 20 if data == "cifar10" else 5
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.schedule.warmup_epochs = 1
    config.checkpoint.every_steps = 160
    config.eval.every_steps = 320


def captioning(config: ml_collections.ConfigDict) -> None:
    """Trains a captioner and keeps the checkpoint with the best CIDEr."""
    config.task = "captioning"
    config.model.name = "captioner"
    config.augment.horizontal_flip = 0.0  # left and right are words, too
    config.checkpoint.best_metric = "eval/cider"


def image_text(config: ml_collections.ConfigDict) -> None:
    """Trains a pair of encoders and keeps the checkpoint that finds most images by their texts."""
    config.task = "image_text"
    config.augment.horizontal_flip = 0.0  # left and right are words, too
    config.checkpoint.best_metric = "eval/image_r1"

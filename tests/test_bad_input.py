"""Every wrong input that a user can give, and the one sentence that it must end with.

`python -m pytest tests/test_bad_input.py -s --no-header -q` prints the sentences.
"""

import dataclasses
import json
import os
import pathlib
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import bad_files
import numpy as np
import pytest
from bad_files import (
    config,
    image,
    old_run,
    pets,
    run_with_config,
    table,
    tarred,
    text,
    train_files,
    zipped,
)
from interop import helpers
from interop.forge import Call, Tensor, npy, npz_bomb, write_npz, write_safetensors, write_torch
from launching import CACHE, ROOT

import jaxvision as jv
from jaxvision.errors import InputError

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))} | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
}

# To start Python and import jax takes seconds, so one process serves all rows. Each row gets the
# flags of a fresh start, and nothing of the tests' own process (beartype, strict ranks).
SERVER = """
import json, sys, traceback
from absl.testing import flagsaver
import launch, jaxvision.evaluation.evaluate, jaxvision.report.end  # which bring more flags
for line in sys.stdin:
    sys.argv = json.loads(line)  # where ml_collections looks for overrides
    sys.modules.pop("config_config", None)  # the config file of the row before
    with flagsaver.flagsaver():
        try:
            code = launch.main(sys.argv)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    print(code, flush=True)
"""


@dataclasses.dataclass
class Row:
    """One wrong input: its name, the options, and what the sentence must say.

    `{tmp}` stands for the folder that `write` fills. Of images that turn out to be bad only when
    they are read, `starts` says that the run has begun by then.
    """

    id: str
    options: str
    expected: list[str]
    write: bad_files.Write = lambda folder: None
    starts: bool = False

    def check(self, run: Callable[[list[str]], tuple[int, str]], tmp: pathlib.Path) -> None:
        """Runs launch.py and asserts that it ends well."""
        self.write(tmp)
        before = bad_files.contents(tmp)
        options = f"{self.options} {CACHE}".replace("{tmp}", str(tmp))
        if "--config=" not in options:
            options = f"--config=configs/smoke.py {options}"
        if "--workdir=" not in options:
            options = f"--workdir={tmp}/run {options}"
        code, stderr = run(options.split())
        assert code == 2 and "Traceback" not in stderr, stderr
        (message,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        print(f"\n{self.id}: {message}".replace(str(tmp), "/tmp"))
        assert [x for x in self.expected if x.replace("{tmp}", str(tmp)) not in message] == []
        assert message.endswith((".", "?"))
        after = bad_files.contents(tmp)
        if self.starts:
            json.loads((tmp / "run/config.json").read_text())
            assert not list((tmp / "run/checkpoints").iterdir())
            after = {path: x for path, x in after.items() if path.parts[0] != "run"}
        assert after == before


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Returns a function from arguments to (exit code, stderr) of launch.py."""
    log = tmp_path_factory.mktemp("server") / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        requests, answers = process.stdin, process.stdout
        assert requests and answers

        def run(arguments):
            start = log.stat().st_size
            print(json.dumps(["launch.py", *arguments]), file=requests, flush=True)
            code = answers.readline()
            return int(code or -1), log.read_bytes()[start:].decode()

        yield run
        requests.close()


SEE, DEMO = "configs/common.py", "--config=quickstart"
BAD = "--config={tmp}/bad.py"
PETS = "--config.data.name=folder --config.data.path={tmp}/pets"
STOP = PETS + " --config.data.max_corrupt_fraction=0.001"  # of the first 1,000 images: one
LIST = "--config.data.name=list --config.data.path={tmp}"
LABELS = f"{LIST} --config.task=multi_label --config.loss.name=bce"
TAR = "--config.data.name=tar --config.data.path={tmp}"
CIFAR = "--config.data.name=cifar10 --config.data.path={tmp}"
CLASSES = "<split>/<class>/<image>"

# A dictionary whose key is a tuple of twice a tuple of twice ..., and a size of 3 GB.
DOUBLED_KEY = b"}K\1" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Ns."
HUGE = (3 * 2**30).to_bytes(8, "little")

COMMAND_LINE = [
    Row("group", "--config.optmizer.name=sgd", ["mean --config.optimizer.name?", SEE]),
    Row("option", "--config.optimizer.learning_rat=1", ["mean --config.optimizer.learning_rate?"]),
    Row("option-short", "--config.optimizer.lr=1", ["mean --config.optimizer.learning_rate?", SEE]),
    Row("option-of-all", "--config.data.batch_size=1", ["mean --config.batch_size?", SEE]),
    Row("option-of-group", "--config.weight_decay=1", ["mean --config.optimizer.weight_decay?"]),
    Row("option-of-option", "--config.batch_size.x=1", ["mean --config.batch_size?", SEE]),
    Row("option-like-none", "--config.zzz=1", ["no option --config.zzz. See", SEE]),
    Row("option-is-group", "--config.optimizer=adam", ["a group", "--config.optimizer.name=VALUE"]),
    Row("option-as-flag", "--optimizer.lr=1", ["mean --config.optimizer.learning_rate?", SEE]),
    Row("option-in-file", BAD, ["no option 'learning_rate'", "mean --config.optimizer.learning_"],
        config("config.learning_rate = 1.0")),
    Row("option-of-model", "--config.model.kwargs.foo=1", ["no option 'foo'", "patch_size", SEE]),
    Row("mistyped-option-of-model", "--config.model.kwargs.drop_path=0.1",
        ["no option 'drop_path'; did you mean drop_path_rate?"]),
    Row("option-of-other-model", "--config.model.name=resnet18 --config.model.kwargs.depth=2",
        ["resnet18 has no option 'depth'", "stage_depths"]),
    Row("type-of-option-of-model", "--config.model.kwargs.depth=two", ["depth must be int, got"]),
    Row("choice-of-option-of-model", "--config.model.kwargs.scan=maybe",
        ["scan must be True or False or auto, got 'maybe'"]),
    Row("options-of-model", "--config.model.kwargs=2", ["must be a dict such as", "got 2"]),
    Row("flag", "--wokdir=x", ["'wokdir'", "workdir"]),
    Row("no-dashes", "config.seed=3", ["'config.seed=3' is no option", "--config.batch_size=64"]),
    Row("no-workdir", "--workdir=", ["--workdir=FOLDER must be given"]),
    Row("preflight", "--mode=preflight --config.optimizer.name=adamx", ["adamw, adam", "'adamx'"]),
    Row("unknown GPU", "--mode=preflight --for=h300", ["--for=h300", "<h100|h200>", "--help"]),
    Row("GPU to train on", "--for=h100", ["--for=h100 is of --mode=preflight"]),
    Row("mode", "--mode=dance", ["dance", "train|eval"]),
    Row("text-for-int", "--config.batch_size=many", ["--config.batch_size", "int", "'many'"]),
    Row("float-for-int", "--config.total_steps=1.5", ["--config.total_steps", "int", "'1.5'"]),
    Row("text-for-bool", "--config.ema_warmup=maybe", ["ema_warmup", "'maybe'"]),
    Row("removed", "--config.log.tensorboard=False", ["no option --config.log.tensorboard", SEE]),
    Row("config-missing", "--config={tmp}/none.py", ["No such file", "{tmp}/none.py", SEE]),
    Row("card", "--config=vit_b17", ["no recipe card 'vit_b17'; did you mean vit_b16?", SEE]),
    Row("card-like-none", "--config=zzz:x", ["no recipe card 'zzz'; `jaxvision configs`", SEE]),
    Row("card-elsewhere", "--config=no/vit_b16.py:folder", ["no file no/vit_b16.py",
        "jaxvision is --config=vit_b16:folder. See"]),
    Row("config-is-folder", "--config={tmp}", ["Is a directory", "{tmp}", SEE]),
    Row("config-unknown-data", "--config=configs/vit_b16.py:mnist", ["'mnist'", "choose shapes"]),
    Row("config-takes-no-data", "--config=configs/smoke.py:x", ["0 positional arguments", SEE]),
    Row("config-fails", BAD, ["ZeroDivisionError", "bad.py, line 4"], config("1 / 0")),
    Row("config-syntax", BAD, ["(bad.py, line 4)"], config("return (")),
    Row("config-returns-none", BAD, ["NoneType"], config("return")),
    Row("config-is-none", BAD, ["no attribute 'get_config'"], text("bad.py", "x = 1")),
    Row("config-option", BAD, ["'see'", "mean --config.seed?"],
        config("config.see = 1", base="common")),
    Row("model-option", BAD, ["no option depht", "depth"],
        config("config.model.kwargs = {'depht': 1}")),
]  # fmt: skip

NAMES = [
    Row("optimizer", "--config.optimizer.name=adamx", ["adamw, adam", "'adamx'", "mean 'adam'"]),
    Row("preset", "--config.optimizer.preset=lat", ["head, late", "'lat'", "mean 'late'"]),
    Row("frozen-stats", "--config.model.freeze_batch_stats=x", ["frozen, all, none", "'x'"]),
    Row("rule", "--config.optimizer.rules=(('blks',{'frozen':True}),)", ["nearest is 'blocks/"]),
    Row("rule-form", "--config.optimizer.rules=(('head',2),)", ["(regex of a parameter path"]),
    Row("unfreeze", "--config.optimizer.unfreeze=((9,'late'),)", ["(epoch inside the run"]),
    Row("schedule", "--config.schedule.name=cosine", ["constant", "mean 'warmup_cosine'"]),
    Row("warmup", "--config.schedule.warmup_convention=tf", ["torch, optax", "'tf'"]),
    Row("crop", "--config.augment.crop=centre", ["random_resized", "mean 'center'"]),
    Row("interpolation", "--config.data.interpolation=box", ["bilinear, bicubic", "'box'"]),
    Row("tracker", "--config.log.to=comet", ["tensorboard, wandb, mlflow", "'comet'"]),
    Row("trackers", "--config.log.to=wandb,mlflow", ["such as \"('tensorboard','wandb')\""]),
    Row(
        "tracker-twice",
        "--config.log.to=('wandb','wandb')",
        ["each once, such as", "got ('wandb', 'wandb')"],
    ),
    Row("task", "--config.task=segmentation", ["'segmentation'", "'classification'"]),
    Row("metric", "--config.checkpoint.best_metric=acc", ["eval/accuracy", "'acc'"]),
    Row("data", "--config.data.name=pets", ["shapes, folder", "'pets'"]),
    Row("difficulty", "--config.data.shapes.difficulty=x", ["easy, medium, hard", "'x'"]),
    Row("model", "--config.model.name=resnet5", ["'resnet5'", "resnet50"]),
    Row("model-far", "--config.model.name=zzzz", ["'zzzz'", "list_models()"]),
    Row(
        "tta",
        "--config.eval.tta=flp",
        ["none, flip, flip_shift, five_crop", "'flp'", "mean 'flip'"],
    ),
    Row("class-folders", "--config.eval.class_folders=index", ["names, indices", "'index'"]),
    Row("class-folders-data", "--config.eval.class_folders=indices", ["data.name=folder, got 'sh"]),
    Row("ensemble", "--config.eval.ensemble=(1,)", ["must be paths", "got (1,)"]),
    Row("dtype", "--config.model.dtype=float99", ["'bfloat16'", "'float99'"]),
]

NUMBERS = [
    Row(f"{option}={value}", f"--config.{option}={value}", [option.rpartition(".")[2], expected])
    for option, value, expected in (
        ("seed", "-1", "0..4294967295, got -1"),
        ("batch_size", "0", "multiple of 2 (2 devices"),
        ("batch_size", "-16", "multiple of 2 (2 devices"),
        ("batch_size", "15", "multiple of 2 (2 devices"),
        ("eval_batch_size", "7", "multiple of 2 (2 devices"),
        ("accumulate_steps", "0", "1..1000000, got 0"),
        ("total_steps", "0", "exactly one of --config.total_steps and --config.total_epochs"),
        ("total_epochs", "inf", "0.0..1000000.0, got inf"),
        ("model.kwargs.depth", "1000000000", "whole number of at most 600"),
        ("data.image_size", "1000000", "up to 16384, a whole number or '(height, width)'"),
        ("data.image_size", "0", "whole number or '(height, width)', got 0"),
        ("data.image_size", "32.5", "whole number or '(height, width)', got 32.5"),
        ("data.image_size", "big", "whole number or '(height, width)', got 'big'"),
        ("data.image_size", "(32,)", "whole number or '(height, width)', got (32,)"),
        ("model.init_image_size", "(32,)", "whole number or '(height, width)', or 0, got (32,)"),
        ("distill.teacher_image_size", "1000000", "up to 16384, a whole number or"),
        ("data.eval_resize", "-2", "8/7 of image_size without any, but is -2"),
        ("data.max_pixels", "0", "got 0"),
        ("data.max_corrupt_fraction", "nan", "0.0..1.0, got nan"),
        ("data.prefetch_examples", "-1", "got -1"),
        ("data.num_threads", "0", "1..1000, got 0"),
        ("data.shapes.num_train", "-5", "got -5"),
        ("model.num_classes", "-1", "got -1"),
        ("model.num_classes", "2", "at least 8, the classes of the training split"),
        ("model.kwargs.width", "0", "whole number of at least 1, got 0"),
        ("model.kwargs.depth", "-2", "whole number of at least 1, got -2"),
        ("model.kwargs.patch_size", "0", "whole number of at least 1, got 0"),
        ("model.kwargs.num_heads", "3", "width 32 must be a multiple of num_heads 3"),
        ("model.kwargs.drop_path_rate", "2", "in [0, 1), got 2.0"),
        ("optimizer.learning_rate", "nan", "0.0..1000000.0, got nan"),
        ("optimizer.learning_rate", "inf", "0.0..1000000.0, got inf"),
        ("optimizer.learning_rate", "-1", "0.0..1000000.0, got -1.0"),
        ("optimizer.weight_decay", "nan", "got nan"),
        ("optimizer.clip_norm", "nan", "got nan"),
        ("optimizer.eps", "-1", "0.0..1.0, got -1.0"),
        ("optimizer.momentum", "1.5", "[0, 1), got 1.5"),
        ("optimizer.b2", "nan", "[0, 1), got nan"),
        ("schedule.warmup_epochs", "nan", "got nan"),
        ("optimizer.layer_decay", "0", "1e-06..1.0, got 0.0"),
        ("optimizer.clip_factor", "nan", "got nan"),
        ("optimizer.part_multipliers", "('a',)", "numbers of at least 0, got ('a',)"),
        ("schedule.end_learning_rate", "nan", "0..0.005 (the peak), got nan"),
        ("schedule.step_epochs", "-1", "got -1.0"),
        ("schedule.step_factor", "nan", "0.0..1.0, got nan"),
        ("loss.label_smoothing", "2", "0.0..0.999, got 2.0"),
        ("ema_decay", "nan", "0.0..0.999999, got nan"),
        ("max_skipped_steps", "0", "1..1000000, got 0"),
        ("log.every_steps", "-1", "got -1"),
        ("eval.every_steps", "-1", "got -1"),
        ("checkpoint.every_steps", "-1", "got -1"),
        ("eval.every_epochs", "-1", "eval.every_epochs must be 0 (off) or above, got -1.0"),
        ("checkpoint.every_percent", "nan", "checkpoint.every_percent must be 0 (off) or above"),
        ("checkpoint.keep", "0", "1..1000000, got 0"),
        ("augment.horizontal_flip", "1.5", "probability in [0, 1], but is 1.5"),
        ("augment.vertical_flip", "-0.1", "probability in [0, 1], but is -0.1"),
        ("augment.mix_probability", "nan", "0.0..1.0, got nan"),
        ("augment.mixup_alpha", "-1", "0.0..100.0, got -1.0"),
        ("augment.rand_augment_layers", "-1", "got -1"),
        ("augment.crop_padding", "-1", "got -1"),
        ("augment.crop_scale", "0.5", "(least, greatest), both above 0 and at most 1"),
        ("augment.crop_scale", "(1.0,0.5)", "(least, greatest), both above 0 and at most 1"),
        ("augment.crop_scale", "('a','b')", "(least, greatest), both above 0 and at most 1"),
        ("augment.crop_ratio", "(0,1)", "(least, greatest), both above 0, but is (0, 1)"),
        ("augment.color_jitter", "(1,)", "(brightness, contrast, saturation, hue)"),
        ("augment.color_jitter", "(0,0,0,0.6)", "hue at most 0.5"),
        ("mesh.fsdp", "3", "does not cover the 2 devices; choose --config.mesh.fsdp"),
        ("mesh.fsdp", "0", "does not cover the 2 devices; choose --config.mesh.fsdp"),
        ("mesh.data", "5", "data=5 x fsdp=1 does not cover the 2 devices"),
        ("sharding_rules", "(1,)", "(regex of a parameter path"),
        ("sharding_rules", "(('kernel',('model',)),)", "with the axes 'data' and 'fsdp'"),
        ("sharding_rules", "(('[',(None,)),)", "(regex of a parameter path"),
    )
] + [
    Row("cadence-twice", "--config.eval.every_steps=5 --config.eval.every_epochs=1",
        ["Give eval.every_* in one unit, got every_steps=5 and every_epochs=1.0"]),
    Row("patches", "--config.data.image_size=30", ["30 x 30 pixels", "patches of 8", "24 x 24"]),
    Row("micro-batches", "--config.accumulate_steps=3", ["multiple of 6 (2 devices x 3", "16"]),
    Row("rule-rank", "--config.sharding_rules=(('kernel',('data',)),)", ["'kernel' has 1 dim"]),
    Row("rule-size", "--config.sharding_rules=(('cls',('data',None,None)),)", ["does not divide"]),
    Row("only-the-middle", "--config.data.image_size=32 --config.data.eval_resize=256",
        ["only the middle 32 of --config.data.eval_resize=256", "leave it out for 37, or"]),
    Row("black-frame", "--config.data.image_size=384 --config.data.eval_resize=256",
        ["eval_resize=256 is less than image_size 384", "leave it out for 439, or give 384"]),
    Row("five-crop", "--config.eval.tta=five_crop --config.data.eval_resize=32",
        ["crops of 32 pixels", "eval_resize=32: give more, e.g. 37"]),
    Row("crop-border", "--config.augment.crop=pad --config.augment.crop_border=reflekt",
        ["black, reflect", "did you mean 'reflect'"]),
    Row("flips-by-turns", "--config.augment.alternating_flip=True "
        "--config.augment.horizontal_flip=0.3",
        ["leave --config.augment.horizontal_flip at 0.5", "instead of 0.3 and 1"]),
    Row("flips-by-turns-repeated", "--config.augment.alternating_flip=True "
        "--config.augment.repeats=3", ["repeats at 1", "instead of 0.5 and 3"]),
    Row("tta-of-captions", "--config=configs/caption_shapes.py --config.eval.tta=flip",
        ["task=classification, got 'captioning'", "leave them out"]),
    Row("accumulated-contrast",
        "--config=configs/moco_v3_vit_s16.py:shapes --config.accumulate_steps=2",
        ["contrasts all images of a batch", "accumulate_steps=1"]),
    Row("one-view", "--config=configs/moco_v3_vit_s16.py:shapes --config.augment.preset=basic "
        "--config.augment.crop_scale=(0.08,1.0)", ["two views", "preset=moco_v3, got 'basic'"]),
    Row("features-of-a-classifier", "--config.eval.features=('knn',)",
        ["learn without labels", "'classification'"]),
    Row("magnitude", "--config.augment.rand_augment_layers=1 "
        "--config.augment.rand_augment_magnitude=99", ["magnitude of 0..30", "magnitude=99"]),
]  # fmt: skip

DATA = [
    Row("no-path", "--config.data.name=folder", ["path, which is empty", CLASSES, DEMO]),
    Row("missing-folder", PETS, ["{tmp}/pets", CLASSES, DEMO]),
    Row("empty-folder", PETS, ["'train'", CLASSES, DEMO], pets({"train": None}, but="/")),
    Row("no-class-folder", PETS, ["x.png lies in no class", CLASSES],
        pets({"train/x.png": image()})),
    Row("one-class", PETS, ["one class, 'cat'", "at least two", "own folder"], pets(but="dog")),
    Row("empty-class", PETS, ["fox holds no image; fill or remove"], pets({"train/fox": None})),
    Row("zip-empty-class", PETS, ["train.zip/fox holds no image; fill or remove"],
        zipped("fox/.keep")),
    Row("zip-other-suffix", PETS, ["train.zip/fox holds no image", "1 .raw", "fill or remove"],
        zipped("fox/1.raw")),
    Row("other-classes", PETS, ["'fox'", "rename or remove"], pets({"test/fox/x.png": image()})),
    Row("no-such-split", f"{PETS} --config.data.eval_split=val", ["'val'", CLASSES, DEMO], pets()),
    Row("held-out-all", "--config.data.eval_split=100%", ["share of the training", "such as 10%"]),
    Row("held-out-none", f"{PETS} --config.data.eval_split=5%", ["5% is 0 of 16", "leaves some"],
        pets(but="test/")),
    Row("held-out-captions", "--config=configs/caption_shapes.py --config.data.eval_split=10%",
        ["labelled images; captions"]),
    Row("shapes-split", "--config.data.eval_split=val", ["train and test", "'val'"]),
    Row("zip-truncated", PETS, ["train.zip is not", "copy it again"], zipped(share=0.7)),
    Row("zip-escape", PETS, ["'../x.png'", "points out", "do not use"], zipped("../x.png")),
    Row("zip-link", PETS, ["is a link", "pack the files"], zipped(mode=stat.S_IFLNK)),
    Row("class-weights", "--config.loss.class_weights=balance", ["did you mean 'balanced'"]),
    Row("few-class-weights", "--config.loss.class_weights=(1.0,2.0)",
        ["has 2 weights, but there are 8 classes", "circle, crescent"]),
    Row("sampling", "--config.data.sampling=sqrtt", ["uniform, balanced, sqrt or an exponent"]),
    Row("sampling-of-labels", "--config.task=multi_label --config.loss.name=bce "
        "--config.data.sampling=0.5 --config.checkpoint.best_metric=eval/map",
        ["sampling=0.5 is for --config.task=classification"]),
    Row("labels-loss", "--config.task=multi_label", ["must be one of bce, sigmoid_focal"]),
    Row("labels-cell", LABELS, ["train.csv, line 2", "'sun' is 'yes'", "1 (there), 0 (not there)"],
        table(b"path,sun\na.png,yes\n")),
    Row("labels-header", LABELS, ["has the columns 'a.png, 1'", "a header with `path`"],
        table(b"a.png,1\n")),
    Row("labels-twice", LABELS, ["line 3", "a.png has a row already, line 2"],
        table(b"path,sun\na.png,1\na.png,0\n")),
    Row("labels-binary", LABELS, ["train.csv cannot be read as a table", "UTF-8"], table(image())),
    Row("list-missing", LIST, ["'train'", "columns path and label", DEMO]),
    Row("list-image", LIST, ["line 2", "no file {tmp}/gone.png"], table(b"a.png,0\ngone.png,1\n")),
    Row("list-label", LIST, ["test.csv, line 1", "'7'", "2 classes", "correct it"],
        table(b"a.png,0\na.png,1\n", b"a.png,7\n")),
    Row("list-negative", LIST, ["line 2", "'-1'", "correct it"], table(b"a.png,0\na.png,-1\n")),
    Row("list-date", LIST, ["line 3", "'20231105' where 2 was expected", "classes.txt"],
        table(b"a.png,0\na.png,1\na.png,20231105\n")),
    Row("list-other-type", LIST, ["test.csv, line 1", "'3'", "'1', '2', 'unknown'"],
        table(b"a.png,1\na.png,2\na.png,unknown\n", b"a.png,3\n")),
    Row("list-binary", LIST, ["train.csv cannot be read as a table", "UTF-8"], table(image())),
    Row("tar-missing", TAR, ["'train'", "webdataset writes them", "<key>.cls", DEMO]),
    Row("tar-compressed", TAR, ["train.tar.gz is compressed", "type `gunzip {tmp}/train.tar.gz`"],
        tarred("train.tar.gz", "w:gz")),
    Row("tar-cut", TAR, ["train.tar is no whole tar", "copy it again"], tarred(share=0.3)),
    Row("tar-no-label", TAR, ["train.tar/0.jpg has no label 0.cls"], tarred(but=".cls")),
    Row("tar-gap", f"{TAR} --config.data.train_split=train-{{0..2}}.tar", ["train-1.tar, one of"],
        lambda folder: [tarred(f"train-{n}.tar")(folder) for n in (0, 2)]),
    Row("hf-missing", "--config.data.name=hf:some/pets --config.data.path={tmp}/cache",
        ["hf:some/pets not found in {tmp}/cache", "load_dataset", DEMO]),
    Row("hf-columns", f"{PETS} --config.data.label_column=fine", ["is folder; leave them out"],
        pets()),
    Row("cifar-missing", "--config.data.name=cifar10", ["cifar-10-python.tar.gz", "get the", DEMO]),
    Row("cifar-hostile", CIFAR, ["names posix.system", "get the original file"],
        bad_files.cifar_that_runs_code),
    Row("cifar-dtype", CIFAR, ["a dtype that is none of a plain", "get the original file"],
        bad_files.cifar(b"cnumpy\ndtype\nU\x02u1\x85RK\x3f\x85b.")),
    Row("cifar-doubled-key", CIFAR, ["keys are neither text nor", "get the original file"],
        bad_files.cifar(DOUBLED_KEY)),
    Row("cifar-memory", CIFAR, ["is cut short", "get the original file"],
        bad_files.cifar(b"\x96" + HUGE + b".")),
    Row("cifar-names", CIFAR, ["no list of class names", "get the original file"],
        bad_files.cifar(pickle.dumps({b"label_names": 3}))),
    Row("records", "--config.data.name=array_record --config.data.path={tmp}",
        ["train.array_record is not a readable"], text("train.array_record", "no records" * 100)),
    Row("tfds-missing", "--config.data.name=tfds:mnist --config.data.path={tmp}/tfds",
        ["tfds:mnist not found in {tmp}/tfds", "download_and_prepare()"]),
    Row("all-corrupt", PETS, ["is corrupt", "check the whole data set"],
        pets(train_files(b"no image")), starts=True),
    Row("truncated-jpeg", STOP, ["cut short", "max_corrupt_fraction", "repair or remove"],
        pets(train_files(image("JPEG")[:-300], 4)), starts=True),
    Row("bomb", STOP, ["2500000000 pixels", "max_corrupt_fraction", "repair or remove"],
        pets(train_files(bad_files.bomb(), 4)), starts=True),
    Row("tile", STOP, ["it has tiles of 46000 x 46000 pixels"],
        pets(train_files(bad_files.tiff(46_000), 4)), starts=True),
    Row("postscript", STOP, ["it is of none of the formats JPEG, PNG", "repair or remove"],
        pets(train_files(image("EPS"), 4)), starts=True),
]  # fmt: skip

WORKDIR = [
    Row("below-a-file", "--workdir={tmp}/x/run", ["Not a directory", "writable"], text("x", "")),
    Row("no-disk", "--workdir=/proc/run", ["/proc/run cannot be written", "writable"]),
    Row("url", "--workdir=gs://bucket/run", ["gs://bucket/run is a URL", "give a path"]),
    Row("damaged-config", "", ["config.json is damaged", "another --workdir"],
        run_with_config('{"seed": 0, "ta')),
    Row("empty-config", "", ["it holds no options", "another --workdir"],
        run_with_config("{}")),
    Row("deep-config", "", ["nested too deeply", "another --workdir"],
        run_with_config("[" * 100_000)),
    Row("config-of-texts", "", ["config.batch_size must be a whole number, got '8'"],
        run_with_config('{"batch_size": "8"}')),
    Row("other-model", "", ["model.kwargs.depth is 2 here and 3 there", "another --workdir"],
        old_run(model__kwargs__depth=3)),
    Row("other-data", "", ["data.name is 'shapes' here and 'folder' there", "another --workdir"],
        old_run(data__name="folder")),
    Row("eval-without-run", "--mode=eval", ["No run in {tmp}/run", "train first"]),
    Row("eval-other-model", "--mode=eval", ["{tmp}/run holds another run",
        "model.kwargs.depth is 2 here and 3 there", "Evaluate it with its options"],
        old_run(model__kwargs__depth=3)),
]  # fmt: skip


@pytest.mark.parametrize(
    "row", COMMAND_LINE + NAMES + NUMBERS + DATA + WORKDIR, ids=lambda row: row.id
)
def test_launch_ends_with_code_2_and_one_sentence(row, serve, tmp_path):
    row.check(serve, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_workdir(serve, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    Row("read-only", "", ["Permission denied", "writable"]).check(serve, tmp_path)


@pytest.mark.parametrize(
    ("shell", "row"),
    [
        ("", COMMAND_LINE[0]),
        ("", DATA[1]),
        # No file may grow: what a full disk looks like.
        ("ulimit -f 0;", Row("full-disk", "", ["run cannot be written", "free space"])),
    ],
    ids=lambda x: x.id if isinstance(x, Row) else "",
)
def test_the_same_in_a_process_of_its_own(shell, row, tmp_path):
    def run(arguments):
        result = subprocess.run(
            ["sh", "-c", f'{shell} exec "$0" launch.py "$@"', sys.executable, *arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return result.returncode, result.stderr

    row.check(run, tmp_path)


# --- weights, which are read by the library and not yet by launch.py --------------------------


def file_of_vit(change):
    """Returns what writes a timm file of the small ViT, after a change to its dict."""

    def write(folder):
        weights: dict[str, Any] = helpers.random_weights(helpers.vit())
        change(weights)
        np.savez(folder / "w.npz", **weights)

    return write


def many_views(folder):
    """Writes 0.4 MB that become 200 MB."""
    view = Tensor(shape=(10**5,), count=10**5)
    saved = {f"{i}": view for i in range(500)}
    return write_torch(folder / "w.pth", saved, data=bytes(4 * 10**5))


MODEL = "Check the model's name and options"
STATE_DICT = "Save only the state_dict: torch.save(model.state_dict(), path)"
CUT = {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
WEIGHTS = [
    ("missing", "w.pth", lambda f: None, ["There is no file"]),
    ("suffix", "w.h5", text("w.h5", ""), ["is empty instead of a file of weights: download"]),
    ("code", "w.pth", lambda f: write_torch(f / "w.pth", Call(os.system, f"touch {f}/HARM")),
     ["holds an object of posix.system, whose code is not run: torch.save(model.state_dict()"]),
    ("tensor-size", "w.pth", lambda f: write_torch(f / "w.pth", {"x": Tensor(shape=(9,))}),
     ["reaches beyond its data", STATE_DICT]),
    ("doubled-key", "w.pth", lambda f: write_torch(f / "w.pth", DOUBLED_KEY),
     ["should hold a state_dict", "but holds a dict with nothing: torch.save"]),
    ("announced", "w.pth", lambda f: write_torch(f / "w.pth", b"\x96" + HUGE + b"."),
     ["cannot be read safely: it is cut short", STATE_DICT]),
    ("many-views", "w.pth", many_views, ["more than 8 times the file's bytes", STATE_DICT]),
    ("long-name", "w.pth", lambda f: write_torch(f / "w.pth", {"module." * 10**6: Tensor()}),
     ["w.pth has a name of 7,000,000 characters: 'module.module."]),
    ("header", "w.safetensors", lambda f: write_safetensors(f / "w.safetensors", {}, size=2**62),
     ["no valid .safetensors file", "header too large"]),
    ("truncated", "w.safetensors", lambda f: write_safetensors(f / "w.safetensors", CUT, b"cut"),
     ["no valid .safetensors file", "not fully covered"]),
    ("objects", "w.npz", lambda f: write_npz(f / "w.npz", {"x.npy": npy(np.array([object]))}),
     ["no .npz file of plain arrays", "allow_pickle=False"]),
    ("zip-bomb", "w.npz", npz_bomb, ["unpacks to 4294967294 bytes"]),
    ("shape", "w.npz", file_of_vit(lambda w: w.update({"norm.bias": np.ones(3, np.float32)})),
     ["'norm.bias' is (3,) in the file, but the model needs (16,)", MODEL]),
    ("nan", "w.npz", file_of_vit(lambda w: w["norm.bias"].__setitem__(3, np.nan)),
     ["norm.bias has 1 values that are NaN or infinite, of 16"]),
    ("infinite", "w.npz", file_of_vit(lambda w: w["head.weight"].fill(-np.inf)),
     ["head.weight has", "the file is damaged, or of a training that diverged"]),
    ("missing-name", "w.npz", file_of_vit(lambda w: w.pop("norm.bias")),
     ["the file lacks 'norm.bias'", MODEL]),
    ("unexpected-name", "w.npz", file_of_vit(lambda w: w.update({"norm.bais": w["norm.bias"]})),
     ["no use for 'norm.bais'", MODEL]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "write", "expected"), [row[1:] for row in WEIGHTS],
                         ids=[row[0] for row in WEIGHTS])  # fmt: skip
def test_weights_end_with_one_sentence(request, file, write, expected, tmp_path):
    write(tmp_path)
    before = bad_files.contents(tmp_path)
    model = helpers.vit()
    leaves = helpers.leaves(model)
    with pytest.raises(InputError) as error:
        jv.load_weights(model, tmp_path / file)
    message = str(error.value)
    print(f"\nweights-{request.node.callspec.id}: {message}".replace(str(tmp_path), "/tmp"))
    assert "\n" not in message and [x for x in expected if x not in message] == []
    assert bad_files.contents(tmp_path) == before  # no HARM
    assert helpers.same(leaves, helpers.leaves(model))

"""Training images whose size changes, and a run with all that is new in a step, resumed."""

import contextlib
import logging

import jax
import numpy as np
import pytest
from opening import make_run, preflight, train
from train import helpers
from train.test_loop import Killed, config, losses

from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.preflight.preflight import first_samples
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.image_sizes import image_size_stages
from jaxvision.train.optim import loss_scale
from jaxvision.train.run import Run

GROWING = ((0, 16), (0.2, 24), (0.36, 32))  # from updates 0, 5 and 9 on


def stages(schedule):
    options = {"data.image_size_schedule": schedule}
    options = read_options(config(**options))
    return image_size_stages(options.data, options.length(400))


def test_stages_begin_at_the_nearest_batch():
    assert stages(()) == ((0, 32),)
    assert stages(GROWING) == ((0, 16), (5, 24), (9, 32))
    assert stages(((0.5, (16, 24)),)) == ((0, 32), (12, (16, 24)))


@pytest.mark.parametrize(
    "schedule",
    [
        ((2, 16),),  # after the end
        ((0.5, 16), (0.5, 24)),
        ((0.5, 16), (0.2, 24)),
        ((-1, 16),),
        ((0, 0),),
        ((0, 16.0),),
        ((0, (16, 16, 3)),),
        (0, 16),
        (("0", 16),),
    ],
)
def test_timetables_that_cannot_work_are_refused(schedule):
    with pytest.raises(InputError, match="must be .epoch inside the run of 1.2 and after"):
        stages(schedule)


def test_a_size_that_the_model_refuses_is_refused_at_the_start():
    options = {"data.image_size_schedule": ((0, 20),)}
    with pytest.raises(InputError, match="does not take images of 20 pixels. .*patches of 8"):
        make_run(config(**options))
    # A captioner looks with its encoder.
    with contextlib.suppress(ImportError):
        from configs import caption_shapes

        captions = caption_shapes.get_config()
        with captions.unlocked():
            captions.data.image_size_schedule = ((0, 32),)
        assert make_run(captions).image_sizes[0] == (0, 32)


def interrupted(options, folder, monkeypatch, at):
    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        if step == at:
            self.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(Killed):
            train(config(**options), folder)
    return train(config(**options), folder)


def test_run_with_growing_images_repetitions_and_float16_resumes_bit_for_bit(
    tmp_path, monkeypatch, caplog
):
    options = {"total_steps": 12, "checkpoint.every_steps": 4, "eval.every_steps": 100}
    options |= {"log.every_steps": 1, "data.image_size_schedule": GROWING}
    options |= {"augment.repeats": 2, "augment.on_device": True, "augment.crop": "pad"}
    options |= {"augment.erasing": 0.3, "model.dtype": "float16"}
    monkeypatch.setattr(loss_scale, "INITIAL_SCALE", 2.0**26)
    sizes, steps = [], []
    put, make = Run.put, Run.train_step

    def noted_put(self, batch):
        sizes.append(batch["image"].shape[1])
        return put(self, batch)

    def noted_step(self):
        steps.append(make(self))
        return steps[-1]

    monkeypatch.setattr(Run, "put", noted_put)
    monkeypatch.setattr(Run, "train_step", noted_step)
    with caplog.at_level(logging.INFO):
        whole = train(config(**options), tmp_path / "whole")
    assert sizes[:12] == [16] * 5 + [24] * 4 + [32] * 3
    assert steps[0]._cache_size() == 3  # each size compiles once
    for size, step in ((16, 1), (24, 6), (32, 10)):
        assert f"Training images of {size} pixels from step {step} on" in caplog.text
    assert 0 < int(whole.skipped_steps) < 12 and whole.loss_scale.scale < 2.0**26
    resumed = interrupted(options, tmp_path / "parts", monkeypatch, at=8)
    helpers.assert_equal(resumed, whole)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_statistics_are_measured_at_the_last_size():
    run = make_run(config(**{"data.image_size_schedule": GROWING}))
    with contextlib.closing(run.train_batches(last_size=True)) as batches:
        assert next(batches)["image"].shape[1] == 32


def test_preflight_tells_the_memory_of_each_size(tmp_path, caplog):
    options = {"data.image_size_schedule": ((0, 16), (0.12, 64)), "augment.mixup_alpha": 0.0}
    options |= {"model.kwargs": dict(width=16, depth=1, num_heads=2, patch_size=8)}
    run = config(**options)
    images, _ = first_samples(make_run(run))
    assert images.shape == (3, 5, 16, 16, 3)  # only those of the first size
    with caplog.at_level(logging.INFO):
        preflight(run, tmp_path, memory_gib=1e-3)
    header, rows = next(
        (lines[0], lines[1:])
        for lines in (record.getMessage().split("\n")[1:] for record in caplog.records)
        if lines and "images of 64" in lines[0]
    )
    assert header.index("training, 16 images of 16") < header.index("training, 16 images of 64")
    activations = next(row for row in rows if row.startswith("activations"))
    small, large = (float(x) for x in activations.split()[3:7:2])
    assert large > 3 * small
    assert np.isfinite(large) and jax.process_count() == 1

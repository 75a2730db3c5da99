import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from making import train_transform

from jaxvision.data import loader, workers
from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import RandomResizedCrop
from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.decode import decode_image, open_photo
from jaxvision.data.pipeline import CorruptCounter, eval_dataset, train_dataset
from jaxvision.data.source import CorruptImageError, DataError, Source
from jaxvision.data.sources.open_source import open_source
from jaxvision.errors import InputError, RunError

PLAIN = Compose(())


class Numbers(Source):
    """Image i is a 1 x 1 picture of i; the records in `corrupt` cannot be read."""

    class_names = tuple(map(str, range(10)))

    def __init__(self, length, corrupt=(), label=None):
        self.length, self.corrupt, self.label = length, frozenset(corrupt), label

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert 0 <= index < self.length
        if index in self.corrupt:
            raise CorruptImageError(f"{index} is broken")
        image = np.array([[[index % 256, index // 256, 0]]], np.uint8)
        return {"image": image, "label": index % 10 if self.label is None else self.label}

    def describe(self, index):
        return f"number {index}"


def jitter(image, rng):
    """Puts a random value next to the image's own: shows which generator was used."""
    return image + np.array([0, 0, rng.integers(256)], np.uint8)


def train(source, *, transform=jitter, batch_size=12, seed=3, **options):
    return train_dataset(source, transform=transform, batch_size=batch_size, seed=seed, **options)


def take(iterator, number):
    batches = list(itertools.islice(iterator, number))
    return {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], key)


def test_batches_keep_the_contract():
    batch = next(train(Numbers(50)))
    types = {"image": np.uint8, "label": np.int32, "mask": bool, "index": np.int64, "corrupt": bool}
    assert batch.keys() == types.keys()
    for key, dtype in types.items():
        assert batch[key].dtype == dtype, key
        assert batch[key].shape == ((12, 1, 1, 3) if key == "image" else (12,))
        assert type(batch[key]) is np.ndarray
    assert batch["mask"].all() and not batch["corrupt"].any()
    np.testing.assert_array_equal(batch["label"], batch["index"] % 10)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])


def test_every_epoch_is_a_new_permutation():
    index = take(train(Numbers(60)), 20)["index"].reshape(4, 60)
    for epoch in index:
        assert sorted(epoch) == list(range(60))
    assert len({tuple(epoch) for epoch in index}) == 4
    # An epoch that is no multiple of the batch goes on in the same batch; nothing is dropped.
    index = take(train(Numbers(50)), 25)["index"].reshape(6, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in index)


def test_seed_decides_order_and_augmentation():
    a, b, c = (take(train(Numbers(40), seed=seed), 8) for seed in (1, 1, 2))
    assert_same(a, b)
    assert np.any(a["index"] != c["index"])
    noise = a["image"][:, 0, 0, 2]
    first = {i: n for i, n in zip(a["index"][:40], noise[:40], strict=True)}
    again = [first[i] == n for i, n in zip(a["index"][40:], noise[40:], strict=True)]
    assert np.mean(again) < 0.2  # the second pass augments anew


class Rows(Numbers):
    """Image i is a row of two pixels, i and then 255."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        return {**record, "image": np.array([[[index] * 3, [255] * 3]], np.uint8)}


def test_flips_by_turns_show_each_image_and_its_mirror_in_every_two_passes():
    flips = dict(transform=PLAIN, batch_size=10, alternating_flip=True)
    seen = take(train(Rows(40), **flips), 12)
    mirrored = np.zeros((3, 40), bool)
    for place, (image, index) in enumerate(zip(seen["image"], seen["index"], strict=True)):
        row = [index, 255]
        mirrored[place // 40, index] = image[0, 0, 0] == 255
        assert image[0, :, 0].tolist() == (row[::-1] if mirrored[place // 40, index] else row)
    np.testing.assert_array_equal(mirrored[1], ~mirrored[0])
    np.testing.assert_array_equal(mirrored[2], mirrored[0])
    assert 10 < mirrored[0].sum() < 30
    other = take(train(Rows(40), seed=4, **flips), 4)
    first = {i: x[0, 0, 0] for i, x in zip(seen["index"][:40], seen["image"][:40], strict=True)}
    same = [first[i] == x[0, 0, 0] for i, x in zip(other["index"], other["image"], strict=True)]
    assert 5 < np.sum(same) < 35  # another seed mirrors others
    far = train(Rows(40), **flips)
    far.set_state({**far.get_state(), "examples_seen": 40 * 1_000})
    late = next(far)  # pass 1,000 is as pass 0
    for image, index in zip(late["image"], late["index"], strict=True):
        assert (image[0, 0, 0] == 255) == mirrored[0, index]
    resumed = train(Rows(40), **flips)
    resumed.set_state({**resumed.get_state(), "examples_seen": 60})
    assert_same(take(resumed, 6), {name: values[60:] for name, values in seen.items()})


@pytest.mark.parametrize(
    "options",
    [{"num_threads": 1}, {"num_threads": 0}, {"prefetch_examples": 1}, {"num_threads": 64}],
)
def test_threads_change_nothing(options):
    assert_same(take(train(Numbers(50), **options), 12), take(train(Numbers(50)), 12))


@pytest.mark.parametrize("batch_size", [1, 7, 17, 34])
def test_batch_size_changes_nothing_but_the_cuts(batch_size):
    number = 34 // batch_size if batch_size != 7 else 4
    ours = take(train(Numbers(50), batch_size=batch_size), number)
    expected = take(train(Numbers(50), batch_size=34), 1)
    assert_same(ours, {key: value[: len(ours["label"])] for key, value in expected.items()})


@pytest.mark.parametrize("process_count", [2, 3, 4])
def test_processes_share_the_same_global_batches(process_count):
    whole = train(Numbers(50))
    shares = [
        train(Numbers(50), process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    for _ in range(10):
        expected, parts = next(whole), [next(share) for share in shares]
        assert {len(part["label"]) for part in parts} == {12 // process_count}
        merged = {key: np.concatenate([p[key] for p in parts]) for key in expected}
        assert_same(merged, expected)
    assert len({str(iterator.get_state()) for iterator in (whole, *shares)}) == 1


def test_resume_in_the_middle_of_an_epoch():
    straight = train(Numbers(50))
    expected = [next(straight) for _ in range(15)]
    first = train(Numbers(50))
    for batch in expected[:7]:
        assert_same(next(first), batch)
    state = pickle.loads(pickle.dumps(first.get_state()))
    assert all(type(value) is int for value in state.values())
    second = train(Numbers(50), num_threads=1)
    next(second)  # a restored iterator forgets where it was
    second.set_state(state)
    assert second.get_state() == state
    for batch in expected[7:]:
        assert_same(next(second), batch)
    # Another number of processes and another batch size go on with the same examples.
    third = train(Numbers(50), batch_size=24, process_index=1, process_count=2)
    third.set_state(state)
    assert_same(next(third), expected[8])


def test_resume_with_other_data_is_refused():
    state = train(Numbers(50)).get_state()
    for other in (train(Numbers(51)), train(Numbers(50), seed=4)):
        with pytest.raises(DataError, match="go on with the same data and seed"):
            other.set_state(state)


def test_signals_are_left_to_the_main_thread():
    masks = []

    def look(image, rng):
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return image

    next(train(Numbers(24), transform=look))
    assert masks and all({signal.SIGINT, signal.SIGTERM} <= mask for mask in masks)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_change_nothing_and_resume():
    """0, 1 and 2 worker processes, and a change of their number in the middle."""
    source = open_source("shapes", "train", shapes={"num_train": 64}, image_size=16)
    transform = train_transform(16, crop="pad", color_jitter=(0.2, 0.2, 0.2, 0.1))

    def make(workers):
        return train(source, transform=transform, num_workers=workers, prefetch_examples=24)

    plain = make(0)
    expected = [next(plain) for _ in range(8)]
    one = make(1)
    for batch in expected[:3]:
        assert_same(next(one), batch)
    two = make(2)
    two.set_state(one.get_state())
    one.close()
    for batch in expected[3:6]:
        assert_same(next(two), batch)
    zero = make(0)
    zero.set_state(two.get_state())
    two.close()
    for batch in expected[6:]:
        assert_same(next(zero), batch)


def test_random_numbers_are_those_of_grain():
    """Runs that were begun with grain's `random_map` go on with the same bits."""
    import grain

    batch = next(train(Numbers(50), batch_size=48))
    expected = grain.MapDataset.range(48).seed(3).random_map(lambda _, rng: rng.integers(256))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 2], [expected[i] for i in range(48)])


def grow(image, rng):
    return np.repeat(image, 1 + rng.integers(2), axis=0)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(
        InputError, match=r"one shape and type, but one image is uint8 \([12], 1, 3"
    ):
        next(train(Numbers(50), transform=grow))


def test_taken_batches_stay_and_their_memory_is_used_again():
    source = Numbers(50)
    expected = take(train(source), 12)
    iterator = train(source, num_workers=1, prefetch_examples=24)
    kept = [next(iterator) for _ in range(12)]
    on_device = [jax.device_put(batch["image"]) for batch in kept]
    views = [{key: array[:] for key, array in batch.items()} for batch in kept]
    del kept
    addresses = {view["index"].__array_interface__["data"][0] for view in views}
    assert len(addresses) == 12
    assert_same({key: np.concatenate([v[key] for v in views]) for key in expected}, expected)
    del views
    later = {next(iterator)["index"].__array_interface__["data"][0] for _ in range(20)}
    assert len(later - addresses) <= 2  # of the batches that were on the way
    # On a CPU, JAX does not copy: its arrays are the memory of batches that nobody else holds.
    np.testing.assert_array_equal(np.concatenate(on_device), expected["image"])
    last = next(iterator)
    index = last["index"].copy()
    iterator.close()
    np.testing.assert_array_equal(last["index"], index)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 12, 48])
@pytest.mark.parametrize("length", [1, 5, 6, 7, 24, 47, 48, 50])
def test_evaluation_has_every_index_exactly_once(length, batch_size, process_count):
    seen, lengths = [], set()
    for process in range(process_count):
        dataset = eval_dataset(
            Numbers(length),
            transform=PLAIN,
            batch_size=batch_size,
            process_index=process,
            process_count=process_count,
        )
        for repeat in range(2):
            batches = list(dataset)
            assert len(batches) == len(dataset)
            for batch in batches:
                assert batch["image"].shape == (batch_size // process_count, 1, 1, 3)
                np.testing.assert_array_equal(batch["mask"], batch["index"] >= 0)
                assert not batch["image"][~batch["mask"]].any()
                valid = batch["index"][batch["mask"]]
                np.testing.assert_array_equal(batch["image"][batch["mask"]][:, 0, 0, 0], valid)
                np.testing.assert_array_equal(batch["label"][batch["mask"]], valid % 10)
                if repeat == 0:
                    seen += valid.tolist()
        lengths.add(len(dataset))
    assert sorted(seen) == list(range(length))
    assert lengths == {-(-length // batch_size)}


def test_workers_evaluate_in_the_order_of_the_source():
    """Three batches of two workers, twice; and errors come as what they are."""
    source = open_source("shapes", "test", shapes={"num_eval": 20}, image_size=8)
    plain, shared = (
        eval_dataset(source, transform=PLAIN, batch_size=8, num_workers=workers)
        for workers in (0, 2)
    )
    for _ in range(2):
        assert_same(take(shared, 4), take(plain, 4))

    def refuse(image, rng):
        raise DataError("no more")

    with pytest.raises(DataError, match="no more") as error:
        list(eval_dataset(source, transform=refuse, batch_size=8, num_workers=1))
    assert "in refuse" in "".join(error.value.__notes__)


def test_workers_start_without_jax():
    """It would cost each of them a second and a tenth of a gigabyte, for every evaluation."""
    source = open_source("shapes", "test", shapes={"num_eval": 1}, image_size=8)

    def look(image, rng):
        return image * 0 + np.uint8(bool({"jax", "grain"} & sys.modules.keys()))

    (batch,) = eval_dataset(source, transform=look, batch_size=1, num_workers=1)
    assert not batch["image"].any()


SCRIPT = """
import multiprocessing
import os

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.pipeline import eval_dataset
from jaxvision.data.sources.shapes import ShapesSource

if __name__ == "__main__":
    source = ShapesSource("train", image_size=16, num_train=64)
    batches = iter(eval_dataset(source, transform=eval_transform(16), batch_size=8, num_workers=2))
    first = next(batches)
    for process in (os.getpid(), *(worker.pid for worker in multiprocessing.active_children())):
        with open(f"/proc/{process}/maps") as file:
            assert "/dev/shm" not in file.read()
    # Neither closed nor read to the end.
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_have_no_names_in_dev_shm_and_end_with_the_interpreter(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_evaluation_order_is_that_of_the_source():
    batches = list(eval_dataset(Numbers(30), transform=PLAIN, batch_size=8, num_threads=16))
    index = np.concatenate([b["index"] for b in batches])
    assert index.tolist() == [*range(30), -1, -1]


def test_corrupt_training_records_are_replaced():
    corrupt = {4, 17, 30}
    seen = {}
    for options in ({}, {"num_threads": 1}, {"process_count": 2}):
        batches = take(train(Numbers(40, corrupt), **options), 20 * options.get("process_count", 1))
        np.testing.assert_array_equal(batches["corrupt"], np.isin(batches["index"], list(corrupt)))
        assert batches["mask"].all()
        used = batches["image"][:, 0, 0, 0]
        np.testing.assert_array_equal(batches["label"], used % 10)
        assert not set(used) & corrupt
        good = ~batches["corrupt"]
        np.testing.assert_array_equal(used[good], batches["index"][good])
        for index, replacement in zip(batches["index"][~good], used[~good], strict=True):
            assert seen.setdefault(int(index), replacement) == replacement
    assert set(seen) == corrupt


def test_corrupt_evaluation_records_are_masked_and_reported(caplog):
    source = Numbers(20, corrupt={0, 13})
    counter = CorruptCounter(source, 0.2)
    batches = list(eval_dataset(source, transform=PLAIN, batch_size=8))
    for batch in batches:
        counter.update(batch)
    merged = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    assert merged["mask"].sum() == 18 and merged["corrupt"].sum() == 2
    assert merged["index"][merged["corrupt"]].tolist() == [0, 13]
    assert not merged["image"][~merged["mask"]].any()
    assert (counter.examples, counter.corrupt) == (20, 2)
    assert "number 0: 0 is broken" in caplog.text and "number 13" in caplog.text


def fake_batch(corrupt, total):
    index = np.arange(total)
    return {
        "index": index,
        "mask": np.ones(total, bool),
        "corrupt": np.isin(index, list(corrupt)),
    }


def test_counter_stops_a_run_with_too_many(caplog):
    source = Numbers(2000, corrupt=range(100))
    counter = CorruptCounter(source, 0.01)
    counter.update(fake_batch(range(10), 100))  # 10 of 100: too few examples to judge
    counter.update(fake_batch((), 1000))
    for _ in range(3):  # the same ones again are not named again
        counter.update(fake_batch(range(5), 500))
    assert caplog.text.count("number 3") == 1
    assert (counter.examples, counter.corrupt) == (2600, 25)
    with pytest.raises(DataError, match="40 of 2700 images.*0.01.*number 0: 0 is broken"):
        counter.update(fake_batch(range(15), 100))
    with pytest.raises(DataError, match="1 of 100"):
        CorruptCounter(source, 0.0).update(fake_batch([3], 100))


def test_a_data_set_of_garbage_stops_at_once():
    for make in (train, lambda s: eval_dataset(s, transform=PLAIN, batch_size=4)):
        with pytest.raises(DataError, match="is corrupt, and so are .*10 .*records"):
            list(itertools.islice(make(Numbers(30, corrupt=range(30))), 1))


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range(label):
    message = f"has the label {label}, but there are 10 classes, so labels are 0 to 9"
    with pytest.raises(DataError, match=message):
        next(train(Numbers(30, label=label)))
    with pytest.raises(DataError, match=message):
        next(iter(eval_dataset(Numbers(30, label=label), transform=PLAIN, batch_size=4)))


@pytest.mark.parametrize("batch_size, process_count", [(0, 1), (7, 2), (-4, 2)])
def test_batch_size_must_divide(batch_size, process_count):
    message = f"positive multiple of the {process_count} processes, but is {batch_size}"
    for make in (train, lambda s, **kw: eval_dataset(s, transform=PLAIN, **kw)):
        with pytest.raises(InputError, match=message):
            make(Numbers(9), batch_size=batch_size, process_count=process_count)


def test_files_from_disk_with_a_broken_one(folder, photo, encode):
    """Encoded images through the whole pipeline, among them one cut in half."""
    for i in range(20):
        (folder / f"train/cat/{i:02}.jpg").write_bytes(encode(photo(30, 40, i)))
    broken = folder / "train/cat/07.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    source = open_source("folder", "train", path=str(folder))
    number = [i for i in range(len(source)) if source.describe(i).endswith("07.jpg")][0]
    batches = take(train(source, transform=train_transform(24), batch_size=5), 10)
    assert batches["image"].shape == (50, 24, 24, 3)
    assert set(batches["index"][batches["corrupt"]]) == {number}
    counter = CorruptCounter(source, 0.0)
    with pytest.raises(DataError, match=r"07.jpg: it cannot be decoded .OSError: Truncated"):
        for batch in eval_dataset(
            source, transform=eval_transform(24, eval_resize=28), batch_size=5
        ):
            counter.update(batch)


def test_too_many_pixels_count_as_corrupt(folder):
    source = open_source("folder", "train", path=str(folder))
    with pytest.raises(DataError, match="corrupt"):
        next(
            train(
                source,
                transform=eval_transform(8, eval_resize=9),
                batch_size=2,
                decode=functools.partial(decode_image, max_pixels=100),
            )
        )


def test_small_images_are_decoded_once(folder, photo, encode, monkeypatch):
    for seed, file in enumerate(sorted((folder / "train").rglob("*.*"))):
        file.write_bytes(encode(photo(13, 17, 100 + seed)))
    source = open_source("folder", "train", path=str(folder))
    own = {source[i]["image"] for i in range(len(source))}
    decoded = []

    def counting(data):
        if data in own:  # not what an earlier test still has in flight
            decoded.append(data)
        return decode_image(data)

    options = {"transform": train_transform(8), "batch_size": 5, "num_threads": 1}
    options["decode"] = counting
    cached = take(train(source, **options), 8)
    assert len(decoded) == 5
    monkeypatch.setattr(loader, "_CACHE_BYTES", 0)
    assert_same(take(train(source, **options), 8), cached)
    assert len(decoded) >= 45


def test_iterators_are_independent_and_close():
    dataset = eval_dataset(Numbers(30), transform=PLAIN, batch_size=4)
    a, b = iter(dataset), iter(dataset)
    next(a)
    next(a)
    assert next(b)["index"][0] == 0 and next(a)["index"][0] == 8
    a.close()
    iterator = train(Numbers(30))
    first = next(iterator)
    iterator.close()
    assert next(iterator)["index"].tolist() != first["index"].tolist()
    fresh = take(train(Numbers(30)), 2)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert_same(thread.submit(take, train(Numbers(30)), 2).result(), fresh)


def test_a_killed_worker_is_one_sentence():
    iterator = train(Numbers(50), num_workers=1, prefetch_examples=24)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with (
        contextlib.closing(iterator),
        pytest.raises(RunError, match=r"exit code -9 \(SIGKILL\): .* Lower --config.data.num_work"),
    ):
        take(iterator, 50)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(-7, "code -7 (SIGBUS): what it"), (1, "code 1: what it said stands"), (None, "code None")],
)
def test_what_ended_a_worker_is_said(code, expected):
    text = workers._why_ended(code)
    assert expected in text and "\n" not in text


def test_photos_are_decoded_as_small_as_their_parts_allow(photo, encode):
    """Also in workers' form, whatever the number of threads; one that is cut short is replaced."""

    class Photos(Numbers):
        def __getitem__(self, index):
            data = encode(photo(130, 170, index), quality=92)
            return {"image": data[:-800] if index == 2 else data, "label": index}

    options = {"batch_size": 4, "transform": Compose((RandomResizedCrop((16, 24)),))}
    decode = pickle.loads(pickle.dumps(functools.partial(open_photo, large=64)))
    ours, again, full = (
        take(train(Photos(5), decode=how, num_threads=threads, **options), 4)
        for how, threads in ((decode, 1), (decode, 3), (decode_image, 2))
    )
    np.testing.assert_array_equal(ours["image"], again["image"])
    np.testing.assert_array_equal(ours["corrupt"], ours["index"] == 2)
    for name in ("label", "index", "corrupt"):
        np.testing.assert_array_equal(ours[name], full[name])
    same = ~ours["corrupt"]  # a part of the other one is drawn anew
    difference = np.abs(ours["image"][same].astype(int) - full["image"][same]).mean()
    assert 0 < difference < 12

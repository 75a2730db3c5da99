"""Repeated augmentation, and a transform that changes in the course of a run."""

import itertools

import numpy as np
import pytest
from data.test_pipeline import Numbers, assert_same, jitter, take, train

from jaxvision.data.order import ShuffledOrder


def order(num_records, repeats, length, seed=5):
    indices = ShuffledOrder(num_records, seed, repeats, ())
    return [indices[i][0] for i in range(length)]


def timm_order(monkeypatch, num_records, repeats, epochs, replicas=1, seed=5):
    """Returns the order of timm's sampler over its epochs, with our shuffle in place of torch's."""
    torch = pytest.importorskip("torch")
    from timm.data.distributed_sampler import RepeatAugSampler

    def shuffle(number, generator):
        rng = np.random.default_rng((seed, generator.initial_seed()))
        return torch.as_tensor(rng.permutation(np.arange(number, dtype=np.int32)))

    monkeypatch.setattr(torch, "randperm", shuffle)
    options = dict(num_replicas=replicas, num_repeats=repeats, selected_round=0)
    samplers = [RepeatAugSampler(range(num_records), rank=i, **options) for i in range(replicas)]
    result = []
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        # Step for step, one example from each replica.
        result.append(list(itertools.chain.from_iterable(zip(*samplers, strict=True))))
    return result


@pytest.mark.parity
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_order_and_length_of_an_epoch_are_those_of_timm(monkeypatch, replicas):
    first, second = timm_order(monkeypatch, 24, 3, 2, replicas)
    assert len(first) == len(second) == 24
    assert order(24, 3, 48) == first + second


@pytest.mark.parity
def test_an_epoch_ends_with_all_repetitions_of_its_last_record(monkeypatch):
    first, second = timm_order(monkeypatch, 25, 3, 2)
    ours = order(25, 3, 2 * 27)
    assert ours[:25] == first and ours[25:27] == [first[-1]] * 2
    assert ours[27:52] == second


def test_a_batch_has_each_record_as_often_and_never_side_by_side():
    iterator = train(Numbers(50), repeats=3)
    for _ in range(20):
        batch = next(iterator)
        index = batch["index"]
        np.testing.assert_array_equal(index.reshape(3, 4), np.tile(index[:4], (3, 1)))
        assert len(set(index[:4])) == 4
        assert (index != np.roll(index, 1)).all()
        noise = batch["image"][:, 0, 0, 2].reshape(3, 4)
        assert len({tuple(row) for row in noise}) == 3  # each has a generator of its own


def test_once_is_the_order_without_repetitions():
    assert_same(take(train(Numbers(50), repeats=1), 9), take(train(Numbers(50)), 9))
    assert "repeats" not in train(Numbers(50)).get_state()


@pytest.mark.parametrize("repeats", [3, 4, 5])
def test_repetitions_that_do_not_divide_the_batch_go_on_in_the_next(repeats):
    iterator = train(Numbers(50), batch_size=16, repeats=repeats)
    index = np.stack([next(iterator)["index"] for _ in range(9)])
    assert (index != np.roll(index, 1, axis=1)).all()
    expected = order(50, repeats, index.size, seed=3)
    for batch, block in zip(index, np.reshape(expected, index.shape), strict=True):
        assert sorted(batch) == sorted(block)


def wide(image, rng):
    return np.tile(jitter(image, rng), (2, 3, 1))


def staged(**options):
    return train(Numbers(50), repeats=2, later_transforms=[(36, wide), (60, jitter)], **options)


def batches(iterator, number):
    return [next(iterator) for _ in range(number)]


def test_a_later_transform_draws_as_the_first_would():
    plain, changed = batches(train(Numbers(50), repeats=2), 8), batches(staged(), 8)
    shapes = [batch["image"].shape for batch in changed]
    assert shapes == [(12, 1, 1, 3)] * 3 + [(12, 2, 3, 3)] * 2 + [(12, 1, 1, 3)] * 3
    for ours, expected in zip(changed, plain, strict=True):
        assert_same(ours | {"image": ours["image"][:, :1, :1]}, expected)


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"num_workers": 2, "num_threads": 1}])
def test_threads_and_workers_change_nothing(options):
    iterator = staged(**options)
    for ours, expected in zip(batches(iterator, 6), batches(staged(), 6), strict=True):
        assert_same(ours, expected)
    iterator.close()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_same_batches(count):
    shares = [staged(process_index=i, process_count=count) for i in range(count)]
    for expected in batches(staged(), 6):
        parts = [next(share) for share in shares]
        assert_same({k: np.concatenate([p[k] for p in parts]) for k in expected}, expected)


def test_resume_before_and_after_a_change():
    expected = batches(staged(), 9)
    for done in (2, 3, 4):
        first = staged()
        batches(first, done)
        second = staged()
        second.set_state(first.get_state())
        for ours, whole in zip(batches(second, 9 - done), expected[done:], strict=True):
            assert_same(ours, whole)

"""Sampling by class: how often, in which order, and the same for everyone."""

import numpy as np
import pytest
from data.test_pipeline import Numbers, assert_same, train

from jaxvision.data.sampling import ClassSampling, labels_of
from jaxvision.data.source import CorruptImageError, DataError

SIZES = (300, 90, 30, 7)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES)).astype(np.int32)


def passes(power, count, labels=LABELS):
    sampling = ClassSampling(labels, power)
    return np.stack([sampling.draw(np.random.default_rng((5, i))) for i in range(count)])


@pytest.mark.parity
@pytest.mark.parametrize("power", [0.0, 0.5, 0.3, 1.0])
def test_records_come_as_often_as_torch_draws_them(power):
    """Of torch's weights n^(power - 1) by its own sampler, over 400 passes of 427 records."""
    torch = pytest.importorskip("torch")
    ours = np.bincount(passes(power, 400).ravel(), minlength=len(LABELS)) / 400
    weights = np.array(SIZES, float)[LABELS] ** (power - 1)
    expected = weights / weights.sum() * len(LABELS)
    np.testing.assert_allclose(ours, expected, atol=0.2)  # a share is drawn: 4 deviations
    torch.manual_seed(0)
    sampler = torch.utils.data.WeightedRandomSampler(weights.tolist(), 400 * len(LABELS))
    theirs = np.bincount(list(sampler), minlength=len(LABELS)) / 400
    by_class = [np.bincount(LABELS, weights=x) for x in (ours, theirs, expected)]
    np.testing.assert_allclose(by_class[0], by_class[2], atol=0.1)
    np.testing.assert_allclose(by_class[0], by_class[1], rtol=0.05)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_pass_has_the_length_of_the_split_and_each_class_its_share(power):
    shares = np.array(SIZES, float) ** power
    shares *= len(LABELS) / shares.sum()
    for order in passes(power, 20):
        assert len(order) == len(LABELS)
        counts = np.bincount(LABELS[order], minlength=4)
        assert (np.abs(counts - shares) < 1 + 1e-9).all()
        times = np.bincount(order, minlength=len(LABELS))
        for label in range(4):
            assert np.ptp(times[label == LABELS]) <= 1


def test_records_without_a_label_are_never_drawn():
    labels = np.array([0, -1, 1, 1, -1], np.int32)
    drawn = passes(0.0, 50, labels)
    assert drawn.shape == (50, 5) and set(drawn.ravel().tolist()) == {0, 2, 3}


def test_order_is_the_same_from_any_step_in_any_process():
    source = Numbers(50)
    sampling = ClassSampling(np.arange(50, dtype=np.int32) // 40, 0.0)
    whole = train(source, sampling=sampling)
    batches = [next(whole) for _ in range(9)]
    late = train(source, sampling=sampling)
    late.set_state(whole.get_state() | {"examples_seen": 4 * len(batches[0]["index"])})
    assert_same(next(late), batches[4])
    halves = [train(source, sampling=sampling, process_index=i, process_count=2) for i in (0, 1)]
    for batch in batches[:5]:
        parts = [next(half)["index"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), batch["index"])
    seen = np.concatenate([batch["index"] for batch in batches])
    assert 0.4 < np.mean(seen >= 40) < 0.6


def test_position_of_another_sampling_is_refused():
    labels = np.arange(50, dtype=np.int32) // 40
    balanced, plain = train(Numbers(50), sampling=ClassSampling(labels, 0.0)), train(Numbers(50))
    for one, other in ((balanced, plain), (plain, balanced)):
        with pytest.raises(DataError, match="sampling="):
            one.set_state(other.get_state())


def test_labels_that_cannot_be_read_are_left_out():
    def label(index):
        if index == 1:
            raise CorruptImageError("damaged")
        return index % 3

    source = Numbers(4, label=label)
    assert labels_of(source).tolist() == [0, -1, 2, 0]

"""Order, seeds and positions of training samples, and who evaluates which image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from saicinpainting.data.sampler import Mixture, SampleKey, TrainSampler, sample_seed, share_of


def keys(images: int, *, epoch: int = 0, done: int = 0, **kwargs) -> list[SampleKey]:
    sampler = TrainSampler(images, **kwargs)
    sampler.begin_at(epoch, done)
    return list(sampler)


def test_an_epoch_is_a_permutation_that_the_seed_and_the_epoch_decide():
    first = [key.image for key in keys(50)]
    assert sorted(first) == list(range(50))
    assert first == [key.image for key in keys(50)]
    assert first != [key.image for key in keys(50, epoch=1)]
    assert first != [key.image for key in keys(50, seed=1)]
    assert [key.image for key in keys(50, epoch=3, shuffle=False)] == list(range(50))


def test_the_order_is_the_same_on_every_machine_and_in_every_version():
    """Written down once: a run that goes on after an upgrade sees its images in the old order."""
    assert [key.image for key in keys(10, epoch=2, seed=7)] == [0, 7, 4, 1, 2, 6, 5, 8, 3, 9]
    assert [sample_seed(7, 2, image) for image in (0, 1)] == [217260225, 685673090]


def test_a_sample_does_not_depend_on_how_many_processes_there_are():
    alone = {key.image: key for key in keys(24, epoch=5, seed=3)}
    for world_size in (2, 3, 4):
        shared = [k for rank in range(world_size) for k in keys(24, epoch=5, seed=3, rank=rank, world_size=world_size)]
        assert {key.image: key for key in shared} == alone


def test_seeds_differ_and_samples_are_counted_through_the_epochs():
    both = keys(100) + keys(100, epoch=1)
    assert len({key.seed for key in both}) == 200
    assert all(0 <= key.seed < 2**32 for key in both)
    assert [key.samples_before for key in both] == list(range(200))


@pytest.mark.parametrize("images", [8, 9, 11])
def test_every_process_gets_as_many_images_and_none_comes_twice(images: int):
    shares = [[key.image for key in keys(images, rank=rank, world_size=4)] for rank in range(4)]
    assert {len(share) for share in shares} == {images // 4}
    together = [image for share in shares for image in share]
    assert len(set(together)) == len(together)


def test_fewer_images_than_processes_still_give_each_one():
    drawn = [[key.image for key in keys(2, rank=rank, world_size=5)] for rank in range(5)]
    assert all(len(share) == 1 for share in drawn)
    assert sorted(Counter(image for (image,) in drawn).values()) == [2, 3]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_can_begin_after_any_number_of_images(world_size: int):
    for rank in range(world_size):
        whole = keys(12, epoch=4, rank=rank, world_size=world_size)
        for own in range(len(whole) + 1):
            assert keys(12, epoch=4, done=own * world_size, rank=rank, world_size=world_size) == whole[own:]


def test_after_a_change_of_processes_no_image_comes_twice():
    seen = {key.image for rank in range(3) for key in keys(20, rank=rank, world_size=3)[:3]}  # nine images
    rest = [key.image for rank in range(2) for key in keys(20, done=9, rank=rank, world_size=2)]
    assert len(rest) == len(set(rest)) == 10  # of eleven: the tenth would be one process's alone
    assert not seen & set(rest)


def test_set_epoch_keeps_the_beginning_of_the_epoch_it_names_already():
    sampler = TrainSampler(6)
    assert sampler.begin_at(2, 4) == 4
    sampler.set_epoch(2)
    assert len(list(sampler)) == 2
    sampler.set_epoch(3)
    assert list(sampler) == keys(6, epoch=3)
    assert len(sampler) == 6  # of a whole epoch, as Lightning counts batches


@pytest.mark.parametrize(("images", "world_size"), [(3, 2), (7, 3), (4, 4)])
def test_every_evaluation_image_belongs_to_one_process(images: int, world_size: int):
    shares = [list(share_of(images, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(image for share in shares for image in share) == list(range(images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_without_an_evaluation_image_of_its_own_takes_another_s():
    assert [list(share_of(2, rank=rank, world_size=5)) for rank in range(5)] == [[0], [1], [0], [1], [0]]


# ---- shares ---------------------------------------------------------------------------------------------------------

SIZES, SHARES = (50, 7, 3), (6, 3, 1)


def drawn(n: int, **kwargs) -> list[SampleKey]:
    """The first `n` draws of epochs of 40."""
    found: list[SampleKey] = []
    for epoch in range(-(-n // 40)):
        found += keys(sum(SIZES), epoch=epoch, epoch_images=40, mixture=Mixture(SIZES, SHARES), **kwargs)
    return found[:n]


def parts_of(samples: list[SampleKey]) -> list[int]:
    return [int(np.searchsorted([50, 57], key.image, side="right")) for key in samples]


def test_parts_are_drawn_by_their_shares_whatever_their_sizes():
    for rounds in (1, 2, 7, 20):
        counts = np.bincount(parts_of(drawn(60 * rounds)), minlength=3)
        np.testing.assert_allclose(counts, 60 * rounds * np.array([0.6, 0.3, 0.1]), atol=1)
    # A round is shuffled: no part comes in one piece.
    assert np.count_nonzero(np.diff(parts_of(drawn(60)))) > 15


def test_shares_that_do_not_divide_leave_no_image_out():
    mixture = Mixture((3, 5), (1, 2))  # 8 draws a round, 2 2/3 and 5 1/3 of them
    for rounds in range(1, 30):
        first = mixture.drawn(rounds)
        assert first.sum() == 8 * rounds
        np.testing.assert_allclose(first, [8 * rounds / 3, 16 * rounds / 3], atol=0.5)
        assert len(mixture.draw(0, rounds)[0]) == 8


def test_no_image_of_a_part_comes_again_before_its_others():
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    samples = drawn(600)
    for number in range(10):  # within a round the order is shuffled, so passes are compared at the ends of rounds
        for key, part in zip(samples[60 * number : 60 * (number + 1)], parts_of(samples)[60 * number :], strict=False):
            seen[part].append(key.image)
        for part, images in seen.items():
            times = np.bincount(images, minlength=60)[{0: slice(50), 1: slice(50, 57), 2: slice(57, 60)}[part]]
            assert times.max() - times.min() <= 1


def test_images_that_come_often_look_different_each_time():
    samples = drawn(1200)
    assert len({(key.image, key.seed) for key in samples}) == len(samples)


def test_draws_by_shares_do_not_depend_on_processes_and_can_begin_anywhere():
    whole, mixture = drawn(120), Mixture(SIZES, SHARES)
    for world_size in (2, 4):
        found = []
        for epoch in range(3):
            ranks = [
                keys(60, epoch=epoch, epoch_images=40, mixture=mixture, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            found += [key for turn in zip(*ranks, strict=True) for key in turn]
        assert found == whole
    assert keys(60, epoch=2, done=13, epoch_images=40, mixture=mixture) == whole[80 + 13 :]
    assert drawn(120, seed=1) != whole


def test_unshuffled_parts_come_in_their_own_order():
    images = [key.image for key in keys(60, mixture=Mixture(SIZES, SHARES), shuffle=False)]
    assert images == [*range(36), *range(50, 57), *range(50, 57), *range(50, 54), *range(57, 60), *range(57, 60)]

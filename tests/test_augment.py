"""Group augmentation: one draw per group, the same for every frame, equal to crop-flip-resize written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dynimg_vl.augment import Crop, GroupAugment


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 60))
@settings(max_examples=50, deadline=None)
def test_every_frame_of_a_group_is_treated_alike(seed, height, width):
    frame = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=seeded(seed))
    groups = frame.expand(2, 5, -1, -1, -1)
    augmented = GroupAugment(size=(16, 16))(groups, seeded(seed))
    assert torch.equal(augmented, augmented[:, :1].expand_as(augmented))


@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 300))
def test_a_crop_lies_inside_the_frame(seed, height, width):
    crop = GroupAugment().draw(height, width, seeded(seed))
    assert crop.top >= 0
    assert crop.top + crop.height <= height
    assert crop.left >= 0
    assert crop.left + crop.width <= width
    assert min(crop.height, crop.width) >= 1


def test_area_and_aspect_follow_the_recipe():
    augment, generator = GroupAugment(), seeded(0)
    crops = [augment.draw(240, 320, generator) for _ in range(500)]
    areas = torch.tensor([c.height * c.width / (240 * 320) for c in crops])
    ratios = torch.tensor([c.width / c.height for c in crops])
    assert 0.49 <= areas.min() < 0.55
    assert 0.9 < areas.max() <= 1
    assert ratios.min() >= 0.74
    assert ratios.max() <= 1.35
    assert 0.4 < sum(c.flip for c in crops) / 500 < 0.6


def test_groups_of_a_batch_are_drawn_apart():
    groups = torch.rand(8, 5, 3, 40, 40, generator=seeded(1))[:1].expand(8, -1, -1, -1, -1)
    augmented = GroupAugment(size=(16, 16))(groups, seeded(2))
    assert len({tuple(group.flatten()[:20].tolist()) for group in augmented}) > 1


def test_draws_are_seeded():
    groups = torch.rand(2, 5, 3, 40, 40)
    augment = GroupAugment(size=(16, 16))
    assert torch.equal(augment(groups, seeded(3)), augment(groups, seeded(3)))
    assert not torch.equal(augment(groups, seeded(3)), augment(groups, seeded(4)))


@pytest.mark.parametrize("flip", [False, True])
def test_apply_is_crop_flip_resize_normalise(flip):
    frames = torch.randint(0, 256, (2, 3, 30, 40), dtype=torch.uint8, generator=seeded(5))
    out = GroupAugment(size=(20, 24)).apply(frames, Crop(3, 5, 20, 30, flip))
    expected = frames[:, :, 3:23, 5:35].float() / 255
    expected = expected.flip(-1) if flip else expected
    expected = F.interpolate(expected, size=(20, 24), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(out, (expected - 0.5) / 0.5)

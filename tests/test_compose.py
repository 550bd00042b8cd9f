"""Composition against a literal cell-by-cell resize, in every dtype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dynimg_vl.compose import compose_dynimgs
from dynimg_vl.errors import InputError
from dynimg_vl.layout import PROMPT_FRAME_COUNTS, DynImgLayout


def random_groups(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_prompt_frames", PROMPT_FRAME_COUNTS)
def test_each_tile_is_its_own_frame_resized(num_prompt_frames):
    layout = DynImgLayout(num_prompt_frames, patch_size=4)
    groups = random_groups(2, 1 + num_prompt_frames, 3, 50, 70)
    dynimgs = compose_dynimgs(groups, layout)
    assert dynimgs.shape == (2, 3, layout.image_size, layout.image_size)
    assert dynimgs.dtype == torch.uint8
    for position, tile in enumerate(layout.pixel_tiles):
        rows, columns = tile.slices
        expected = F.interpolate(
            groups[:, position].double(), size=(tile.height, tile.width), mode="bicubic", antialias=True
        )
        assert (dynimgs[:, :, rows, columns].double() - expected.clamp(0, 255)).abs().max() <= 0.51


@given(st.sampled_from(PROMPT_FRAME_COUNTS), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_flat_frames_stay_flat_and_nothing_crosses_a_border(num_prompt_frames, height, width):
    layout = DynImgLayout(num_prompt_frames, patch_size=2)
    colours = torch.arange(1 + num_prompt_frames, dtype=torch.uint8) * 20
    frames = colours[:, None, None, None].expand(-1, 3, height, width)
    dynimg = compose_dynimgs(frames, layout)
    for colour, tile in zip(colours, layout.pixel_tiles, strict=True):
        assert (dynimg[(slice(None), *tile.slices)] == colour).all()


def test_uint8_and_float_agree_and_batches_are_their_parts():
    layout = DynImgLayout(patch_size=4)
    groups = random_groups(2, 3, 5, 3, 40, 60)
    whole = compose_dynimgs(groups, layout)
    assert whole.shape == (2, 3, 3, 96, 96)
    assert torch.equal(whole[1, 2], compose_dynimgs(groups[1, 2], layout))
    as_float = compose_dynimgs(groups / 255, layout)
    assert as_float.dtype == torch.float32
    assert (as_float.clamp(0, 1) * 255 - whole).abs().max() <= 0.51


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_composes_the_same_picture():
    layout, groups = DynImgLayout(), random_groups(2, 5, 3, 120, 160)
    on_gpu = compose_dynimgs(groups.cuda(), layout)
    assert (on_gpu.cpu().int() - compose_dynimgs(groups, layout).int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (5, 1, 8, 8), (3, 8, 8)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(InputError, match="got"):
        compose_dynimgs(torch.zeros(shape), DynImgLayout())

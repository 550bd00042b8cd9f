import pytest
import torch
from torch import nn

from dynimg_vl.model import DynImgProjector
from dynimg_vl.model.projector import pool_grid, pool_time
from tiny import tiny_config


@pytest.mark.parametrize("patch_grid", [8, 9])
def test_tokens_are_linear_gelu_linear_then_adaptive_pooling(patch_grid):
    projector = DynImgProjector(tiny_config(patch_grid=patch_grid))
    features = torch.randn(3, patch_grid**2, 32)
    hidden = projector.linear_2(nn.functional.gelu(projector.linear_1(features)))
    volume = hidden.view(3, patch_grid, patch_grid, 32).permute(3, 0, 1, 2)  # (D, T, rows, columns)
    expected = nn.AdaptiveAvgPool3d((3, 4, 4))(volume).permute(1, 2, 3, 0).flatten(1, 2)
    torch.testing.assert_close(projector(features), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_dynimgs", "expected"), [(1, 1), (4, 4), (16, 16), (20, 16), (33, 16)])
def test_time_is_averaged_down_but_never_up(num_dynimgs, expected):
    tokens = torch.randn(num_dynimgs, 6, 5)
    pooled = pool_time(tokens, 16)
    literal = nn.AdaptiveAvgPool1d(expected)(tokens.permute(1, 2, 0)).permute(2, 0, 1)
    torch.testing.assert_close(pooled, literal, rtol=1e-5, atol=1e-6)


def test_no_token_of_the_default_grid_mixes_two_frames():
    layout = tiny_config(token_grid=12, patch_grid=24, num_prompt_frames=4).layout
    frame = torch.full((24, 24), -1.0)
    for rank, tile in enumerate(layout.pixel_tiles):
        rows, columns = (slice(edge.start // layout.patch_size, edge.stop // layout.patch_size) for edge in tile.slices)
        frame[rows, columns] = rank
    pooled = pool_grid(frame[None, ..., None], 12, 12)
    assert pooled.equal(pooled.round())
    assert not pooled.eq(-1).any()


def test_frames_that_were_encoded_alone_fill_the_same_tiles():
    config = tiny_config(prompt_stage="after")
    projector, layout = DynImgProjector(config), config.layout
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            linear.weight.copy_(torch.eye(32))
            linear.bias.zero_()
    features = torch.arange(3.0)[None, :, None, None].expand(2, 3, 64, 32) * 10  # frame 0, 1, 2: 0, 10, 20
    tokens = projector(features)[..., 0].view(2, 4, 4)
    for rank, tile in enumerate(layout.tiles):
        torch.testing.assert_close(tokens[(slice(None), *tile.slices)].mean(), torch.tensor(10.0 * rank))

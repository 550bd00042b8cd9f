"""The geometry against the table of design.md and its own invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynimg_vl.errors import InputError
from dynimg_vl.layout import PROMPT_FRAME_COUNTS, DynImgLayout, Tile, prompt_frame_counts

# Table 4's N -> (keyframe rows, prompt tile height x width), on the 12 x 12 grid: docs/design.md, decision 1.
PAPER_TILES = {0: (12, None), 1: (6, (6, 12)), 2: (6, (6, 6)), 4: (9, (3, 3)), 6: (10, (2, 2)), 12: (11, (1, 1))}


@st.composite
def layouts(draw):
    grid = draw(st.integers(1, 24))
    return DynImgLayout(
        num_prompt_frames=draw(st.sampled_from(prompt_frame_counts(grid))),
        token_grid=grid,
        patch_grid=grid * draw(st.integers(1, 4)),
        patch_size=draw(st.sampled_from([4, 8, 14, 16])),
    )


@pytest.mark.parametrize("num_prompt_frames", PROMPT_FRAME_COUNTS)
def test_default_grid_has_the_tiles_of_table_4(num_prompt_frames):
    layout = DynImgLayout(num_prompt_frames)
    rows, prompt = PAPER_TILES[num_prompt_frames]
    assert layout.keyframe == Tile(0, 0, rows, 12)
    assert all((tile.height, tile.width) == prompt for tile in layout.prompts)
    assert len(layout.prompts) == num_prompt_frames


def test_default_sizes_are_the_papers():
    layout = DynImgLayout()
    assert layout.tokens_per_dynimg * 4 == 576  # Table 2, "Visual Tokens"
    assert layout.image_size == 336
    assert [(t.height, t.width) for t in layout.pixel_tiles] == [(252, 336)] + [(84, 84)] * 4


@given(layouts())
def test_tiles_partition_the_grid(layout):
    covered = [
        (row, column)
        for tile in layout.tiles
        for row in range(tile.top, tile.top + tile.height)
        for column in range(tile.left, tile.left + tile.width)
    ]
    assert len(covered) == len(set(covered)) == layout.tokens_per_dynimg
    assert set(covered) == {(r, c) for r in range(layout.token_grid) for c in range(layout.token_grid)}


@given(layouts())
def test_every_edge_is_a_multiple_of_patch_and_token(layout):
    token_pixels = layout.image_size // layout.token_grid
    for tile, pixels in zip(layout.tiles, layout.pixel_tiles, strict=True):
        assert (pixels.top, pixels.left) == (tile.top * token_pixels, tile.left * token_pixels)
        assert (pixels.height, pixels.width) == (tile.height * token_pixels, tile.width * token_pixels)
        assert token_pixels % layout.patch_size == 0


@given(layouts())
def test_prompt_times_surround_the_keyframe(layout):
    times = layout.prompt_times
    assert len(times) == layout.num_prompt_frames
    assert 0 not in times
    assert list(times) == sorted(times)
    if layout.num_prompt_frames % 2 == 0:
        assert [-t for t in reversed(times)] == list(times)


def test_prompt_times_of_the_paper():
    assert DynImgLayout(4).prompt_times == (-2, -1, 1, 2)
    assert DynImgLayout(1).prompt_times == (1,)


@pytest.mark.parametrize("num_prompt_frames", PROMPT_FRAME_COUNTS)
def test_literal_27_grid_keeps_frame_edges_on_patches(num_prompt_frames):
    layout = DynImgLayout(num_prompt_frames, patch_grid=27)
    assert not layout.is_exact
    assert layout.image_size == 378  # a 384 px SigLIP with patch 14 sees 27 whole patches, 378 px
    area = sum(tile.height * tile.width for tile in layout.pixel_tiles)
    assert area == 378 * 378
    assert all(v % 14 == 0 for tile in layout.pixel_tiles for v in (tile.top, tile.left, tile.height, tile.width))


@pytest.mark.parametrize("num_prompt_frames", [-1, 3, 5, 7, 8, 24])
def test_a_count_that_does_not_fit_is_refused_with_those_that_do(num_prompt_frames):
    with pytest.raises(InputError, match="0, 1, 2, 4, 6, 12"):
        DynImgLayout(num_prompt_frames)


def test_a_grid_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"6 prompt frames do not fit a token grid of 8; these do: 0, 1, 2, 4$"):
        DynImgLayout(6, token_grid=8, patch_grid=16)
    with pytest.raises(InputError, match="at least as many patches"):
        DynImgLayout(4, token_grid=12, patch_grid=8)
    with pytest.raises(InputError, match="patch_size must be at least 1"):
        DynImgLayout(patch_size=0)


def test_coordinates_of_the_default_layout():
    """Figure 3, row by row: the keyframe counts 0..8 x 0..11; each prompt frame spans the same range in 3 x 3 cells."""
    table = DynImgLayout().coordinates.reshape(12, 12, 3)
    assert table[:9, :, 0].tolist() == [[row] * 12 for row in range(9)]
    assert table[:9, :, 1].tolist() == [list(range(12))] * 9
    assert (table[:9, :, 2] == 0).all()
    assert table[9:, :, 0].tolist() == [[0] * 12, [4] * 12, [8] * 12]
    assert table[9:, :, 1].tolist() == [[0, 5.5, 11] * 4] * 3
    assert table[9:, :, 2].tolist() == [[-2] * 3 + [-1] * 3 + [1] * 3 + [2] * 3] * 3


@given(layouts())
def test_all_frames_share_the_keyframes_range(layout):
    table = layout.coordinates.reshape(layout.token_grid, layout.token_grid, 3)
    for tile in layout.tiles:
        cells = table[tile.slices]
        for axis, length in ((0, layout.keyframe.height), (1, layout.keyframe.width)):
            expected = {0.0, length - 1.0} if tile.size[axis] > 1 else {(length - 1) / 2}
            assert {cells[..., axis].min(), cells[..., axis].max()} == expected

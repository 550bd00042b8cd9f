import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl import DynImgLayout, InputError, dynimg_position_ids, layout_coordinates

VIDEO = 7
DEFAULT = DynImgLayout()
SMALL = DynImgLayout(num_prompt_frames=2, token_grid=4, patch_grid=8, patch_size=8)  # K = 16

# The keyframe counts rows and columns; each prompt frame spans the same rows 0..8 and columns 0..11, at its own time.
GOLDEN = """
0 0 0     0 1 0      0 2 0      0 3 0     0 4 0      0 5 0      0 6 0    0 7 0     0 8 0     0 9 0    0 10 0    0 11 0
1 0 0     1 1 0      1 2 0      1 3 0     1 4 0      1 5 0      1 6 0    1 7 0     1 8 0     1 9 0    1 10 0    1 11 0
2 0 0     2 1 0      2 2 0      2 3 0     2 4 0      2 5 0      2 6 0    2 7 0     2 8 0     2 9 0    2 10 0    2 11 0
3 0 0     3 1 0      3 2 0      3 3 0     3 4 0      3 5 0      3 6 0    3 7 0     3 8 0     3 9 0    3 10 0    3 11 0
4 0 0     4 1 0      4 2 0      4 3 0     4 4 0      4 5 0      4 6 0    4 7 0     4 8 0     4 9 0    4 10 0    4 11 0
5 0 0     5 1 0      5 2 0      5 3 0     5 4 0      5 5 0      5 6 0    5 7 0     5 8 0     5 9 0    5 10 0    5 11 0
6 0 0     6 1 0      6 2 0      6 3 0     6 4 0      6 5 0      6 6 0    6 7 0     6 8 0     6 9 0    6 10 0    6 11 0
7 0 0     7 1 0      7 2 0      7 3 0     7 4 0      7 5 0      7 6 0    7 7 0     7 8 0     7 9 0    7 10 0    7 11 0
8 0 0     8 1 0      8 2 0      8 3 0     8 4 0      8 5 0      8 6 0    8 7 0     8 8 0     8 9 0    8 10 0    8 11 0
0 0 -2    0 5.5 -2   0 11 -2    0 0 -1    0 5.5 -1   0 11 -1    0 0 1    0 5.5 1   0 11 1    0 0 2    0 5.5 2   0 11 2
4 0 -2    4 5.5 -2   4 11 -2    4 0 -1    4 5.5 -1   4 11 -1    4 0 1    4 5.5 1   4 11 1    4 0 2    4 5.5 2   4 11 2
8 0 -2    8 5.5 -2   8 11 -2    8 0 -1    8 5.5 -1   8 11 -1    8 0 1    8 5.5 1   8 11 1    8 0 2    8 5.5 2   8 11 2
"""


def positions(ids, mask=None, layout=SMALL, **options):
    ids = torch.as_tensor(ids)
    return dynimg_position_ids(ids, mask, layout=layout, video_token_id=VIDEO, **options)


def prompt(*parts):
    """Make a row of ids: a number stands for so many text tokens, "v" for a DynImg."""
    return [token for part in parts for token in ([VIDEO] * 16 if part == "v" else [1] * part)]


def test_golden_table_of_the_default_layout():
    expected = torch.tensor([float(word) for word in GOLDEN.split()]).view(144, 3)
    torch.testing.assert_close(layout_coordinates(DEFAULT), expected, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 2, 4, 6, 12])
def test_prompt_frames_span_the_range_of_the_keyframe(count):
    layout = DynImgLayout(num_prompt_frames=count)
    cells = layout_coordinates(layout).view(12, 12, 3)
    for tile, time in zip(layout.prompts, layout.prompt_times, strict=True):
        region = cells[tile.slices]
        assert region[..., 2].eq(time).all()
        for axis, extent, cut in ((0, layout.keyframe.height, region[:, 0]), (1, layout.keyframe.width, region[0])):
            values = cut[:, axis]
            if len(values) == 1:
                assert values.item() == (extent - 1) / 2
            else:
                assert (values[0].item(), values[-1].item()) == (0, extent - 1)


def test_a_single_prompt_frame_lies_after_the_keyframe():
    assert layout_coordinates(DynImgLayout(num_prompt_frames=1))[-1, 2] == 1


def test_hws_counts_the_whole_grid_and_has_no_time():
    cells = layout_coordinates(DEFAULT, "hws").view(12, 12, 3)
    assert cells[..., 0].equal(torch.arange(12.0)[:, None].expand(12, 12))
    assert cells[..., 1].equal(torch.arange(12.0)[None, :].expand(12, 12))
    assert cells[..., 2].eq(0).all()


def test_the_table_that_is_handed_out_is_a_copy():
    layout_coordinates(SMALL).zero_()
    assert layout_coordinates(SMALL).any()


def test_text_alone_counts_from_zero_on_all_axes():
    assert positions([prompt(5)]).equal(torch.arange(5.0).expand(4, 1, 5))


def test_four_dynimgs_take_four_positions_and_text_goes_on():
    ids = [1, 1, *[VIDEO] * 576, 1, 1]
    result = positions([ids], layout=DEFAULT)
    sequence = result[3, 0]
    assert sequence[:2].tolist() == [0, 1]
    assert sequence[2:-2].view(4, 144).equal(torch.arange(2.0, 6.0)[:, None].expand(4, 144))
    assert result[:, 0, -2:].equal(torch.tensor([6.0, 7.0]).expand(4, 2))
    assert result[:3, 0, 2:146].T.equal(layout_coordinates(DEFAULT))
    assert result.dtype == torch.float32


def test_token_step_counts_every_token_and_keeps_space_and_time():
    ids = [prompt(2, "v", "v", 1)]
    result = positions(ids, sequence_step="token")
    assert result[3, 0].equal(torch.arange(35.0))
    assert result[:3, :, 2:34].equal(positions(ids)[:3, :, 2:34])


def test_rope_axes_s_is_the_token_index_on_all_axes():
    assert positions([prompt(2, "v", 1)], rope_axes="s").equal(torch.arange(19.0).expand(4, 1, 19))


def test_padding_gets_zero():
    mask = torch.tensor([[0, 0, 1, 1]])
    assert positions([[0, 0, 1, 1]], mask).tolist() == [[[0, 0, 0, 1]]] * 4


parts = st.lists(st.one_of(st.just("v"), st.integers(1, 4)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(parts, min_size=1, max_size=3), step=st.sampled_from(["dynimg", "token"]))
def test_left_padding_changes_nothing(rows, step):
    rows = [prompt(*row) for row in rows]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    batch = positions(ids, mask, sequence_step=step)
    for rank, row in enumerate(rows):
        assert batch[:, rank, length - len(row) :].equal(positions([row], sequence_step=step)[:, 0])


@settings(max_examples=40, deadline=None)
@given(row=parts)
def test_text_has_four_equal_axes_and_s_moves_once_per_dynimg(row):
    ids = torch.tensor([prompt(*row)])
    result = positions(ids)
    assert result[:, ids == 1].eq(result[3, ids == 1]).all()
    steps = result[3, 0].diff()
    assert set(steps.tolist()) <= {0.0, 1.0}
    assert result[3, 0, -1] == sum(1 if part == "v" else part for part in row) - 1


@settings(max_examples=40, deadline=None)
@given(first=parts, second=parts, step=st.sampled_from(["dynimg", "token"]))
def test_a_continued_sequence_is_the_tail_of_the_whole(first, second, step):
    whole = positions([prompt(*first, *second)], sequence_step=step)
    head = positions([prompt(*first)], sequence_step=step)
    tail = positions([prompt(*second)], sequence_step=step, start=head[3, :, -1] + 1)
    assert torch.cat([head, tail], -1).equal(whole)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(parts, min_size=1, max_size=3))
def test_packed_sequences_start_over(rows):
    rows = [prompt(*row) for row in rows]
    packed = positions(
        [[token for row in rows for token in row]],
        token_positions=torch.cat([torch.arange(len(row)) for row in rows])[None],
    )
    assert packed.equal(torch.cat([positions([row]) for row in rows], -1))


def test_packing_and_continuing_exclude_each_other():
    with pytest.raises(InputError, match="not both"):
        positions([[1]], start=torch.tensor([3]), token_positions=torch.tensor([[0]]))

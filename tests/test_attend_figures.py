"""Figure 3 shows the coordinates that the model gets; the curves of theta show what a log holds."""

import json

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.layout import PROMPT_FRAME_COUNTS, DynImgLayout
from dynimg_vl.positions import dynimg_position_ids
from dynimg_vl.render import read_theta, render_coordinates, render_theta
from dynimg_vl.render.common import heat, wrapped
from dynimg_vl.render.coordinates import _CELL, _TEXT_CELL
from dynimg_vl.render.theta import _COLOURS, _ticks
from test_cli import assert_refused, run  # noqa: F401  (a fixture)


def luminance(colours):
    return colours @ np.array([0.299, 0.587, 0.114])


def test_the_scale_gets_brighter_all_the_way():
    assert (np.diff(luminance(heat(np.linspace(0, 1, 101)).astype(float))) > 0).all()
    assert np.array_equal(heat(np.array([-3.0, 7.0])), heat(np.array([0.0, 1.0])))


def cells_of(picture, layout, num_before):
    """Read the colour of each cell of the first DynImg, a corner of it that no number covers: (4, K, 3)."""
    pixels = np.asarray(picture)
    grid = layout.token_grid * _CELL
    left = 24 + num_before * (_TEXT_CELL + 10)
    step = grid + 26 + 14
    top = picture.height - 10 - 4 * step + 26
    return np.array(
        [
            [
                pixels[top + axis * step + row * _CELL + 5, left + column * _CELL + 5]
                for row in range(layout.token_grid)
                for column in range(layout.token_grid)
            ]
            for axis in range(4)
        ]
    )


@pytest.mark.parametrize("num_prompt_frames", PROMPT_FRAME_COUNTS)
def test_a_brighter_cell_has_a_larger_coordinate(num_prompt_frames):
    layout = DynImgLayout(num_prompt_frames)
    is_video = torch.tensor([0] * 2 + [1] * (2 * layout.tokens_per_dynimg) + [0] * 3)
    ids = dynimg_position_ids(is_video[None], layout=layout, video_token_id=1)[:, 0].numpy()
    picture = render_coordinates(ids, is_video.bool().numpy(), layout)
    for values, colours in zip(ids[:, 2 : 2 + layout.tokens_per_dynimg], cells_of(picture, layout, 2), strict=True):
        light = luminance(colours.astype(float))
        order = np.argsort(values, kind="stable")
        rises = np.diff(values[order]) > 0
        assert (np.diff(light[order])[rises] > 0).all()
        assert (np.diff(light[order])[~rises] == 0).all()


def test_show_draws_coordinates(run, ball_video, tmp_path):  # noqa: F811
    plain, other = tmp_path / "a.png", tmp_path / "b.png"
    assert run("show", ball_video, "-o", plain, "--coordinates", "--num-dynimgs", 1)[0] == 0
    assert run("show", ball_video, "-o", other, "--num-dynimgs", 1)[0] == 0
    assert plain.read_bytes() != other.read_bytes()
    assert_refused(run("show", ball_video, "-o", plain, "--coordinates", "--overlay"), "--overlay")


# --- theta ---------------------------------------------------------------------------------------------------------


def rows(num=5):
    return [
        {"step": 10 * n, "loss": 1.0, "theta_h_mean": 0.1 * n, "theta_t_mean": 0.05 * n, "theta_h_max": 0.4 * n}
        for n in range(num)
    ]


def test_theta_is_read_from_either_log(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (tmp_path / "log.jsonl").write_text(lines + '{"step": 50, "the')  # cut off: the run is still going
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows()}))
    wanted = [(10 * n, pytest.approx(0.1 * n)) for n in range(5)]
    for place in (tmp_path, tmp_path / "log.jsonl", tmp_path / "trainer_state.json"):
        found = read_theta(place)
        assert set(found) == {"theta_h_mean", "theta_t_mean", "theta_h_max"}
        assert found["theta_h_mean"] == wanted


def test_a_log_without_theta_is_refused(tmp_path):
    with pytest.raises(InputError, match="no log of a run"):
        read_theta(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n[]\nnonsense\n')
    with pytest.raises(InputError, match="nothing about theta"):
        read_theta(tmp_path)
    (tmp_path / "trainer_state.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="is no trainer_state"):
        read_theta(tmp_path / "trainer_state.json")


def test_a_curve_ends_where_its_values_end():
    series = {"theta_h_mean": [(0, 0.0), (100, 1.0)], "theta_t_mean": [(0, 0.0), (100, 0.5)], "theta_w_max": [(0, 0)]}
    pixels = np.asarray(render_theta(series)).astype(int)[52:]  # below the legend
    last = pixels[:, pixels.shape[1] - 24 - 6]

    def height(axis):
        return np.nonzero((last == _COLOURS[axis]).all(-1))[0].mean()

    bottom = 380 - 52 - 52
    assert (bottom - height("h")) / (bottom - height("t")) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("end", [1e-6, 0.26, 1.0, 3.7, 10.0, 6150])
def test_ticks_are_few_and_round(end):
    ticks = _ticks(end)
    assert 4 <= len(ticks) <= 11
    assert ticks[0] == 0
    assert ticks[-1] <= end * 1.0001
    assert float(f"{ticks[1]:.1g}") == pytest.approx(ticks[1])


def test_text_is_broken_between_words():
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = "one two three four five"
    assert " ".join(wrapped(draw, text, 60, 12)) == text
    assert len(wrapped(draw, text, 60, 12)) > 1
    assert wrapped(draw, text, 1e6, 12) == [text]

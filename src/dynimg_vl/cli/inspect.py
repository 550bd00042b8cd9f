"""`index` and `show`: look at a video without any model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import (
    counted,
    emit_json,
    given,
    json_option,
    require_local,
    selection_of,
    selection_options,
    source_options,
    written_whole,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..layout import DynImgLayout

PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@click.command()
@source_options
@json_option
def index(video: str, fps: float | None, max_pixels: int | None, max_frames: int | None, as_json: bool) -> None:
    """List what VIDEO (a file, or a folder of frames) is made of: frames, I-frames, times.

    Nothing is decoded.
    """
    require_local(video)
    from ..video import index_video

    found = index_video(video, **given(fps=fps, max_pixels=max_pixels, max_frames=max_frames))
    iframe_seconds = sorted(round(float(time), 6) for time in found.iframe_seconds)
    facts = {
        "video": video,
        "codec": found.codec,
        "width": found.width,
        "height": found.height,
        "rotation": found.rotation,
        "sample_aspect_ratio": str(found.sample_aspect_ratio),
        "duration_seconds": round(float(found.duration_seconds), 6),
        "num_frames": found.num_frames,
        "num_iframes": len(iframe_seconds),
        "iframe_seconds": iframe_seconds,
    }
    if as_json:
        emit_json(facts)
        return
    click.echo(
        f"{video}: {found.codec} {found.width}x{found.height}, {facts['duration_seconds']:.2f} s, "
        f"{counted(found.num_frames, 'frame')}, {counted(len(iframe_seconds), 'I-frame')}"
        + (f", rotated by {found.rotation}" if found.rotation else "")
    )
    click.echo("I-frames at " + " ".join(f"{time:.2f}" for time in iframe_seconds) + " s")


@click.command()
@source_options
@click.option("-o", "--output", type=Path, required=True, help="The picture to write: png, jpg or webp.")
@click.option("--overlay", is_flag=True, help="Draw the token grid with the coordinates h, w and t.")
@click.option("--coordinates", is_flag=True, help="Draw h, w, t and s of all tokens, text around them, instead.")
@selection_options
@json_option
def show(
    video: str,
    output: Path,
    overlay: bool,
    coordinates: bool,
    num_prompts: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the timeline of VIDEO and its DynImgs into a picture; needs no model.

    The timeline has the I-frames (of a long video, those looked up), the chosen keyframes and their prompt frames.
    """
    require_local(video)
    from ..layout import DynImgLayout
    from ..loading import load_dynimgs
    from ..render import render_dynimgs

    if output.suffix.lower() not in PICTURE_FORMATS:
        raise InputError(f"cannot write {output}: name it with one of {', '.join(PICTURE_FORMATS)}")
    if output.exists() and output.samefile(video):
        raise InputError(f"{output} is the video itself; name another picture")
    if overlay and coordinates:
        raise InputError("--overlay and --coordinates are two pictures; ask for one of them")
    layout = DynImgLayout(**given(num_prompt_frames=num_prompts))
    dynimgs = load_dynimgs(video, layout=layout, **selection_of(**options))
    with written_whole(output) as temporary:
        if coordinates:
            picture = draw_coordinates(layout, len(dynimgs.groups))
        else:
            picture = render_dynimgs(dynimgs, overlay=overlay, title=Path(video).name)
        try:
            picture.save(temporary)
        except (ValueError, OSError) as error:  # WebP ends at 16383 pixels a side, JPEG at 65500
            if getattr(error, "errno", None) is not None:  # the disk's, not the format's
                raise
            size = f"{picture.width} x {picture.height} pixels"
            raise InputError(
                f"cannot write {output}: {size} are too many for it; name a .png, or take fewer"
            ) from error
    if as_json:
        emit_json({"video": video, "picture": str(output), **dynimgs.describe()})
    else:
        click.echo(f"{output}: {counted(len(dynimgs.groups), 'DynImg')} of {Path(video).name}")


def draw_coordinates(layout: "DynImgLayout", num_dynimgs: int) -> "Image":
    """Draw the coordinates of a chat as the model reads it, with three text tokens before and after the DynImgs."""
    import torch

    from ..positions import dynimg_position_ids
    from ..render import render_coordinates

    is_video = torch.tensor([0] * 3 + [1] * (num_dynimgs * layout.tokens_per_dynimg) + [0] * 3)
    position_ids = dynimg_position_ids(is_video[None], layout=layout, video_token_id=1)[:, 0]
    return render_coordinates(position_ids.numpy(), is_video.bool().numpy(), layout)

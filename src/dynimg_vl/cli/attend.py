"""`attend`: where a patch of a keyframe looks."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .inspect import PICTURE_FORMATS
from .options import (
    dtype_option,
    emit_json,
    json_option,
    require_local,
    selection_of,
    selection_options,
    source_options,
    written_whole,
)

if TYPE_CHECKING:
    from ..loading import DynImgs
    from ..model.attention import PatchAttention


@click.command()
@source_options
@click.option(
    "--patch", required=True, metavar="ROW,COL", help="Patch of the keyframe, counted from 0 at its top left corner."
)
@click.option("-o", "--output", type=Path, required=True, help="The picture to write: png, jpg or webp.")
@click.option("--layer", type=int, help="Layer of the vision tower, from 1; without it, the last one that is read.")
@click.option("--head", type=int, help="One head, from 1; without it, the mean over all.")
@click.option("--rollout", is_flag=True, help="Follow the attention through the layers up to this one.")
@click.option("--dynimg", type=int, default=1, show_default=True, help="Which DynImg of the video, from 1.")
@click.option("-m", "--model", help="Folder or hub id of a model; without it, the embedded one.")
@click.option("--device", help="cpu, cuda, cuda:1, mps, auto; without it, the best one there is.")
@dtype_option
@selection_options
@json_option
def attend(
    video: str,
    patch: str,
    output: Path,
    layer: int | None,
    head: int | None,
    rollout: bool,
    dynimg: int,
    model: str | None,
    device: str | None,
    dtype: str | None,
    num_prompts: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw where a patch of a keyframe of VIDEO looks: at its own frame, and at the prompt frames.

    Beside the attention over the whole DynImg stands that of the same patch with the prompt frames cut off.
    """
    require_local(video)
    place = _read_patch(patch)
    if output.suffix.lower() not in PICTURE_FORMATS:
        raise InputError(f"cannot write {output}: name it with one of {', '.join(PICTURE_FORMATS)}")
    if output.exists() and output.samefile(video):
        raise InputError(f"{output} is the video itself; name another picture")
    from ..model.attention import patch_attention
    from ..render import attention
    from .local import load_answerer

    answerer = load_answerer(model, device=device, dtype=dtype, num_prompt_frames=num_prompts)
    dynimgs = answerer.look(video, **selection_of(**options))
    found = patch_attention(
        answerer.model, answerer.processor, dynimgs, place, dynimg=dynimg, layer=layer, head=head, rollout=rollout
    )
    with written_whole(output) as temporary:
        attention(dynimgs, found, title=Path(video).name).save(temporary)
    if as_json:
        emit_json({"video": video, "picture": str(output), "model": model or "embedded", **_facts(dynimgs, found)})
    else:
        keyframe, *prompts = found.frame_shares()
        shares = f"; prompt frames {' '.join(f'{share:.1%}' for share in prompts)}" if prompts else ""
        click.echo(f"{output}: attention of patch {place[0]},{place[1]} on the keyframe {keyframe:.1%}{shares}")


def _read_patch(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(-?\d{1,6})\s*,\s*(-?\d{1,6})\s*", text, re.ASCII)
    if not found:
        raise InputError(f"--patch {text!r} is no place; give row and column, for example --patch 4,7")
    return int(found[1]), int(found[2])


def _facts(dynimgs: "DynImgs", found: "PatchAttention") -> dict[str, Any]:
    shares = [round(share, 6) for share in found.frame_shares()]
    seconds = [round(time, 6) for time in dynimgs.seconds(dynimgs.groups[found.dynimg - 1])]
    frames = [{"seconds": time, "share": share} for time, share in zip(seconds, shares, strict=True)]
    grids = {"with_prompts": found.shares, "without_prompts": found.alone}
    return {
        "dynimg": found.dynimg,
        "patch": list(found.patch),
        "layer": found.layer,
        "num_layers": found.num_layers,
        "head": found.head,
        "num_heads": found.num_heads,
        "rollout": found.is_rollout,
        "keyframe": frames[0],
        "prompt_frames": frames[1:],
        "attention": {
            name: None if grid is None else [[round(float(value), 6) for value in row] for row in grid]
            for name, grid in grids.items()
        },
    }

"""Frame groups to DynImgs: the keyframe above, the prompt frames in a strip below (Section 3.1, Figure 2)."""

from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .layout import DynImgLayout


def compose_dynimgs(frames: Tensor, layout: DynImgLayout) -> Tensor:
    """Compose frame groups into DynImgs, each frame squeezed into its tile by antialiased bicubic resizing.

    Whole frames are resized without a crop, so that nothing at the border of a frame is lost (Section 4.1 composes
    after augmentation for the same reason).

    Args:
        frames: (..., 1 + N, 3, H, W), the keyframe first, then the prompt frames in time order; uint8 or floating, on
            any device. The leading dimensions are free: one group, G groups, a batch of videos.
        layout: the tiles; its `num_prompt_frames` is N.

    Returns:
        (..., 3, S, S) in the dtype and on the device of `frames`, with S = `layout.image_size`.

    Raises:
        InputError: where the number of frames is not 1 + N, or `frames` has no three channels.
    """
    if frames.ndim < 4 or frames.shape[-3] != 3:
        raise InputError(
            f"frames must have shape (..., {len(layout.tiles)}, 3, height, width), got {tuple(frames.shape)}"
        )
    if frames.shape[-4] != len(layout.tiles):
        raise InputError(
            f"a layout with {layout.num_prompt_frames} prompt frames needs {len(layout.tiles)} frames a group, "
            f"got {frames.shape[-4]}: {tuple(frames.shape)}"
        )
    leading = frames.shape[:-4]
    groups = frames.reshape(-1, *frames.shape[-4:])
    dynimgs = frames.new_empty(groups.shape[0], 3, layout.image_size, layout.image_size)
    for position, tile in enumerate(layout.pixel_tiles):
        rows, columns = tile.slices
        dynimgs[:, :, rows, columns] = resize_frames(groups[:, position], (tile.height, tile.width))
    return dynimgs.reshape(*leading, *dynimgs.shape[1:])


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 3, H, W) frames to `size` (height, width), antialiased, in their own dtype and range."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    # In float32 on every device: CUDA has no uint8 kernel, and half precision would round at the borders of a tile.
    resized = F.interpolate(frames.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    if frames.dtype.is_floating_point:
        return resized.to(frames.dtype)
    return resized.round_().clamp_(0, 255).to(frames.dtype)

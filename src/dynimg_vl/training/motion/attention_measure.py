"""Measure whether keyframe patches attend to the same content in the strip, as Section 3.1 has it.

The motion world knows where the content of each keyframe patch is in each prompt frame. So the attention of a patch can
be split by truth: what falls on the places where its content is, on the places where it would be had nothing moved, and
on the strip at all. A model that looks at a fixed place of the strip whatever happens does the first on still ground,
but on moving objects only the second.

Shapes: B DynImgs, Q patches of the keyframe, N prompt frames, P patches of a DynImg.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...layout import DynImgLayout
from ...model import DynImgForConditionalGeneration, DynImgProcessor
from ...model.attention import head_weights, num_read_layers
from ...model.configuration_dynimg import DynImgConfig
from ...model.tile_encoding import frame_of_patches
from ...motion.plan import WorldPlan, sample_planned, sharp
from ...motion.render import match_points, pixel_points, render, truth_at
from ...motion.textures import PictureBank
from ...motion.world import Scenes, sample_scenes
from .data import View, frame_times
from .targets import frame_grids

GROUPS = ("moving", "moving_far", "still", "moving_near", "still_near")
"""Patches on objects that move, in prompt frames where their content is in another patch than at rest, or (far) two
patches or more away; patches on still ground; and (near) with the prompt frames next to the keyframe only, which the
motion attention loss is about."""

METRICS = ("match", "chance", "place", "strip", "frames")
"""Shares of a patch's attention: on its content in the strip; of the area that is there; on the same place of each of
these prompt frames; on the whole strip; on the prompt frames that show the content elsewhere (or, if still, at all)."""


@dataclass
class PatchTruth:
    """Hold where the content of Q keyframe patches is in N prompt frames.

    `match` (B, Q, N) the patch of the DynImg that shows what is in the middle of the keyframe's patch, `place` (Q, N)
    the one at the same place of the frame; `asked` the (B, Q, N) pairs of patch and prompt frame that count, by group;
    `frames` (P,) the frame of each patch.
    """

    match: Tensor
    place: Tensor
    asked: dict[str, Tensor]
    frames: Tensor


def patch_truth(scenes: Scenes, times: Tensor, layout: DynImgLayout) -> PatchTruth:
    """Find where the content of the keyframe's patches is in the strip.

    Args:
        scenes: B of them.
        times: (B, 1 + N), keyframe first.
        layout: with prompt frames.
    """
    frames = frame_of_patches(layout)
    grids = frame_grids(layout)
    points = pixel_points(grids[0])
    at = times[:, :1]
    layer = truth_at(scenes, at, points).layer[:, 0]
    moves = torch.cat((torch.zeros_like(scenes.moves[:, :1]), scenes.moves), 1).gather(1, layer + 1)
    is_calm = scenes.cuts.isinf().all(1) & (scenes.camera == 0).all(1) & (scenes.zoom == 0)
    # On a plain background every place looks alike, so that there is nothing to find again.
    is_ground = (layer < 0) & (is_calm & ~scenes.flat)[:, None]
    matches, places, seen, shifts = [], [], [], []
    for rank, grid in enumerate(grids[1:], start=1):
        numbers = (frames == rank).nonzero()[:, 0]
        found, visible = match_points(scenes, at, times[:, rank : rank + 1], points)
        matches.append(numbers[_cell_of(found[:, 0], grid)])
        places.append(numbers[_cell_of(points, grid)])
        seen.append(visible[:, 0])
        shifts.append(((found[:, 0] - points) * torch.tensor([grid[1], grid[0]])).abs().amax(-1))
    match, place, visible = torch.stack(matches, -1), torch.stack(places, -1), torch.stack(seen, -1)
    is_near = torch.tensor([abs(time) == 1 for time in layout.prompt_times])
    moving, still = visible & moves[..., None] & (match != place), visible & is_ground[..., None]
    asked = {"moving": moving, "moving_far": moving & (torch.stack(shifts, -1) >= 2), "still": still}
    asked |= {"moving_near": moving & is_near, "still_near": still & is_near}
    return PatchTruth(match, place, asked, frames)


def _cell_of(places: Tensor, grid: tuple[int, int]) -> Tensor:
    # The number of the patch, row by row, that holds each place (..., 2) in x, y of the frame.
    size = torch.tensor([grid[1], grid[0]])
    cell = (places * size).floor().long().clamp(torch.zeros_like(size), size - 1)
    return cell[..., 1] * grid[1] + cell[..., 0]


def score_attention(weights: Tensor, truth: PatchTruth, group: str) -> dict[str, Tensor]:
    """Split attention by truth, for the patches of one group.

    Args:
        weights: (B, Q, P) of the keyframe's patches, adding up to one.
        truth: of the same DynImgs.
        group: of `GROUPS`.

    Returns:
        For each of `METRICS` the shares (B, Q); 0 for patches outside of the group.
    """
    asked = truth.asked[group]
    per_frame = [weights[..., truth.frames == rank].sum(-1) for rank in range(1, asked.shape[-1] + 1)]
    shares = torch.stack(per_frame, -1)  # (B, Q, N)
    return {
        "match": (weights.gather(-1, truth.match) * asked).sum(-1),
        "chance": asked.sum(-1) / weights.shape[-1],
        "place": (weights.gather(-1, truth.place.expand_as(truth.match)) * asked).sum(-1),
        "strip": shares.sum(-1) * asked.any(-1),
        "frames": (shares * asked).sum(-1),
    }


def draw_clip(
    number: int, view: View, bank: PictureBank, seed: int, plan: WorldPlan | None = None
) -> tuple[Scenes, Tensor, Tensor]:
    """Draw one clip with a still camera from its number and a seed alone; of a planned world, where there is a plan.

    Returns:
        The scene once for each of its G DynImgs, the times (G, 1 + N) of their frames, and the DynImgs
        (G, 3, S, S) uint8, with each frame drawn at the size of its tile.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    if plan is None:
        scenes = sample_scenes(1, len(bank), generator, camera_share=0.0)
    else:
        scenes = sample_planned(1, len(bank), generator, plan)
    times = frame_times(1, view, generator)[0]
    scenes = scenes.rows(torch.zeros(len(times), dtype=torch.long))
    pixels = torch.zeros(len(times), 3, view.layout.image_size, view.layout.image_size)
    for rank, tile in enumerate(view.layout.pixel_tiles):
        rows, columns = tile.slices
        shown = sharp(scenes) if rank == 0 else scenes  # keyframes have no blur
        pixels[:, :, rows, columns] = render(shown, bank, times[:, rank : rank + 1], tile.size, generator)[:, 0]
    return scenes, times, pixels.mul_(255).round_().to(torch.uint8)


@dataclass(frozen=True)
class AttentionMeasure:
    """Hold `values` (clips, layers, heads) of each metric by group, in shares; NaN where a clip has no such patch."""

    values: dict[str, dict[str, np.ndarray]]

    def estimate(self, group: str, metric: str, layer: int, head: int | None = None) -> dict[str, float]:
        """Give mean, standard error and number of clips; the clip is the unit, its patches are not independent.

        Args:
            group: of `GROUPS`, or "difference": moving minus still, within the clips that have both.
            metric: of `METRICS`.
            layer: from 0.
            head: from 0; None for the mean over heads.
        """
        if group == "difference":
            found = self.values["moving"][metric] - self.values["still"][metric]
        else:
            found = self.values[group][metric]
        clips = found[:, layer].mean(-1) if head is None else found[:, layer, head]
        clips = clips[~np.isnan(clips)]
        error = clips.std(ddof=1) / np.sqrt(len(clips)) if len(clips) > 1 else float("nan")
        mean = clips.mean() if len(clips) else float("nan")
        return {"mean": float(mean), "standard_error": float(error), "num_clips": len(clips)}

    def as_json(self) -> list[dict[str, Any]]:
        """List all estimates, layer by layer, the mean over heads (head: null) before each head; both from 1."""
        _, num_layers, num_heads = self.values["moving"]["match"].shape
        return [
            {
                "layer": layer + 1,
                "head": None if head is None else head + 1,
                **{
                    group: {metric: self.estimate(group, metric, layer, head) for metric in METRICS}
                    for group in (*GROUPS, "difference")
                },
            }
            for layer in range(num_layers)
            for head in (None, *range(num_heads))
        ]


def sees_strip(config: DynImgConfig) -> bool:
    """Tell whether the tower of a model sees a keyframe together with a strip."""
    return config.prompt_stage == "before" and config.layout.num_prompt_frames > 0


def measure_attention(
    model: DynImgForConditionalGeneration,
    processor: DynImgProcessor,
    *,
    bank: PictureBank,
    num_clips: int = 200,
    seed: int = 20261121,
    batch_size: int = 16,
    plan: WorldPlan | None = None,
) -> Iterator[int | AttentionMeasure]:
    """Measure where keyframe patches look, on clips with a still camera that are drawn from `seed` alone.

    Args:
        model: with a composed DynImg before its tower.
        processor: that belongs to it.
        bank: pictures that the model was not trained on.
        num_clips: how many, at least 1.
        seed: of the scenes and times.
        batch_size: clips at a time.
        plan: of the world that clips are drawn from; without it, the one that the embedded model is trained on.

    Yields:
        The number of clips done after each batch, and the measure at the end.

    Raises:
        InputError: where the tower never sees keyframe and strip together.
    """
    config, view = model.config, View.of(model.config)
    if not sees_strip(config):
        raise InputError(
            f"this model (prompt_stage={config.prompt_stage!r}, {config.num_prompt_frames} prompt frames) never shows "
            "its tower a keyframe with a strip: there is no attention between them to measure"
        )
    parts: list[dict[str, dict[str, np.ndarray]]] = []
    for start in range(0, num_clips, batch_size):
        numbers = range(start, min(start + batch_size, num_clips))
        scenes, times, pixels = zip(*(draw_clip(number, view, bank, seed, plan) for number in numbers), strict=True)
        truth = patch_truth(_joined(scenes), torch.cat(times), view.layout)
        normed = processor.video_processor.normalise(torch.cat(pixels))
        parts.append(_measure_batch(model, normed, truth, view.num_dynimgs))
        yield numbers.stop
    yield AttentionMeasure(
        {
            group: {metric: np.concatenate([part[group][metric] for part in parts]) for metric in METRICS}
            for group in GROUPS
        }
    )


def _joined(parts: Sequence[Scenes]) -> Scenes:
    names = [field.name for field in fields(Scenes)]
    return Scenes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _measure_batch(
    model: DynImgForConditionalGeneration, pixels: Tensor, truth: PatchTruth, num_dynimgs: int
) -> dict[str, dict[str, np.ndarray]]:
    # The mean over the patches of each clip, (clips, layers, heads) for each metric of each group.
    num_layers, num_heads = num_read_layers(model.config), model.config.vision_config.num_attention_heads
    pixels = pixels.to(model.device, model.dtype)
    keyframe = (truth.frames == 0).nonzero()[:, 0].to(model.device)
    shape = (len(pixels) // num_dynimgs, num_layers, num_heads)
    sums = {group: {metric: np.zeros(shape) for metric in METRICS} for group in GROUPS}
    counts = {group: truth.asked[group].any(-1).view(shape[0], -1).sum(1).double() for group in GROUPS}
    with torch.inference_mode():
        for layer, head, weights in head_weights(model.model.vision_tower, pixels, num_layers, queries=keyframe):
            for group in GROUPS:
                for metric, shares in score_attention(weights.cpu(), truth, group).items():
                    total = shares.double().view(shape[0], -1).sum(1)
                    sums[group][metric][:, layer, head] = (total / counts[group]).numpy()  # 0 / 0 is NaN
    return sums


def as_table(rows: Sequence[dict[str, Any]], heads_of: Sequence[int] = ()) -> str:
    """Print what `AttentionMeasure.as_json` lists as a Markdown table in percent of attention, with standard errors.

    In brackets, how many times the share of the area that is. Every layer has a row for the mean over its heads; the
    layer that finds the content of moving patches best, and those in `heads_of` (from 1), also one for each head.
    """
    best = max((row for row in rows if row["head"] is None), key=lambda row: row["moving"]["match"]["mean"])
    detailed = {best["layer"], *heads_of}
    whats = ("its content", "the same place")
    titles = ["layer", "head", "moving: in the strip", "still: in the strip"]
    titles += [f"{group}: on {what}" for group in ("moving", "moving far") for what in whats]
    lines = [f"| {' | '.join([*titles, 'still: on its content'])} |", "|---" * (len(titles) + 1) + "|"]
    for row in rows:
        if row["head"] is not None and row["layer"] not in detailed:
            continue
        cells = [str(row["layer"]), "mean" if row["head"] is None else str(row["head"])]
        cells += [_cell(row, "moving", "strip"), _cell(row, "still", "strip")]
        cells += [_cell(row, group, metric) for group in ("moving", "moving_far") for metric in ("match", "place")]
        lines.append(f"| {' | '.join([*cells, _cell(row, 'still', 'match')])} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], group: str, metric: str) -> str:
    found = row[group][metric]
    text = f"{100 * found['mean']:.1f} ± {100 * found['standard_error']:.1f}"
    return text if metric == "strip" else f"{text} (x {found['mean'] / row[group]['chance']['mean']:.1f})"

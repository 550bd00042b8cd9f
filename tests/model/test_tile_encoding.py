"""`prompt_stage="tiles"`: frames at the size and place that they have in a DynImg, encoded apart from each other."""

import pytest
import torch

from dynimg_vl.model.tile_encoding import encode_apart, frame_of_patches
from tiny import tiny_inputs, tiny_model


def tile_alone(model, pixels, tile):
    """Encode the pixels of one tile as a picture of its own, with the position embeddings of its place."""
    layout, tower = model.config.layout, model.model.vision_tower
    rows, columns = tile.slices
    embedded = tower.embeddings.patch_embedding(pixels[:, :, rows, columns]).flatten(2).transpose(1, 2)
    numbers = torch.arange(layout.patch_grid**2).view(layout.patch_grid, layout.patch_grid)
    size = layout.patch_size
    place = numbers[rows.start // size : rows.stop // size, columns.start // size : columns.stop // size].flatten()
    states = embedded + tower.embeddings.position_embedding(place)
    for layer in tower.encoder.layers[:-1]:  # vision_feature_layer is -2
        states = layer(states, None)
    return model.model.multi_modal_projector.linear_2(
        model.model.multi_modal_projector.act(model.model.multi_modal_projector.linear_1(states))
    ).unflatten(1, (tile.height // size, tile.width // size))


@pytest.mark.parametrize("num_prompt_frames", [1, 2, 4])
def test_tokens_are_those_of_each_tile_encoded_alone(num_prompt_frames):
    model = tiny_model(prompt_stage="tiles", num_prompt_frames=num_prompt_frames)
    pixels = tiny_inputs(model.config)["pixel_values_videos"]
    layout = model.config.layout
    with torch.no_grad():
        tokens = torch.stack(model.get_video_features(pixels, return_dict=True).pooler_output)
        tokens = tokens.unflatten(1, (layout.token_grid, layout.token_grid))
        for tile, in_pixels in zip(layout.tiles, layout.pixel_tiles, strict=True):
            hidden = tile_alone(model, pixels, in_pixels)
            pooled = hidden.unflatten(2, (tile.width, -1)).unflatten(1, (tile.height, -1)).mean((2, 4))
            torch.testing.assert_close(tokens[(slice(None), *tile.slices)], pooled, rtol=1e-4, atol=1e-5)


def test_no_frame_changes_the_tokens_of_another():
    model = tiny_model(prompt_stage="tiles")
    pixels = tiny_inputs(model.config)["pixel_values_videos"]
    changed = pixels.clone()
    rows, columns = model.config.layout.pixel_tiles[1].slices
    changed[:, :, rows, columns] += 1
    with torch.no_grad():
        before, after = (
            torch.stack(model.get_video_features(each, return_dict=True).pooler_output).view(2, 4, 4, -1)
            for each in (pixels, changed)
        )
    differs = (before - after).abs().amax((0, 3)) > 1e-6
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[model.config.layout.tiles[1].slices] = True
    assert torch.equal(differs, expected)


def test_the_processor_composes_as_before():
    from tiny import tiny_config, tiny_processor

    frames = torch.randint(0, 255, (12, 48, 64, 3), dtype=torch.uint8)
    first, second = (
        tiny_processor(tiny_config(prompt_stage=stage)).video_processor(frames, fps=4.0, return_tensors="pt")
        for stage in ("before", "tiles")
    )
    assert torch.equal(first["pixel_values_videos"], second["pixel_values_videos"])


def test_patches_are_numbered_by_frame_and_come_back_in_their_order():
    layout = tiny_model(prompt_stage="tiles").config.layout
    frames = frame_of_patches(layout).view(8, 8)
    for rank, tile in enumerate(layout.pixel_tiles):
        rows, columns = (slice(edge.start // 8, edge.stop // 8) for edge in tile.slices)
        assert (frames[rows, columns] == rank).all()
    states = torch.randn(2, 7, 5)
    odd = torch.tensor([0, 1, 0, 2, 0, 1, 2])
    assert torch.equal(encode_apart([lambda x, mask: x + 1, lambda x, mask: x * 2], states, odd), (states + 1) * 2)

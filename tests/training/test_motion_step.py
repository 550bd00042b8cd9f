"""A step on the motion world computes what the model computes, however the model is shown a clip."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dynimg_vl import InputError
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.paths import KINDS
from dynimg_vl.motion.plan import WorldPlan
from dynimg_vl.motion.questions import Exchange
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.wordings import PATH_ANSWERS
from dynimg_vl.motion.world import sample_scenes
from dynimg_vl.training.motion.data import (
    BatchPlan,
    MotionBatch,
    MotionDataset,
    View,
    frame_times,
    look_at_one,
    prompt_times,
)
from dynimg_vl.training.motion.packing import Packer
from dynimg_vl.training.motion.settings import DENSE, OF_MOTION, Lesson, LossWeights, Schedule, Stage, WorldSettings
from dynimg_vl.training.motion.staged_data import StagedDataset, as_sample
from dynimg_vl.training.motion.step import exact_matches, frame_patches
from dynimg_vl.training.motion.tokenizer import build_tokenizer
from motion_runs import tiny_learner

ARMS = [
    {},
    {"prompt_stage": "tiles"},
    {"prompt_stage": "after"},
    {"prompt_stage": "none"},
    {"num_prompt_frames": 1},
    {"num_prompt_frames": 4},
    {"num_dynimgs": 3},
    {"num_dynimgs": 2, "prompt_stage": "after"},
    {"rope_axes": "s"},
    {"rope_axes": "hws", "rope_combine": "split"},
    {"sequence_step": "token", "num_dynimgs": 2},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(4, torch.Generator().manual_seed(0))


def batch_of(learner, bank, tokenizer, plan):
    return MotionDataset(plan, learner.view, 1, 0, tokenizer, bank, chat_share=0.5)[0]


def through_the_model(learner, batch):
    """Answer each exchange alone with the model's own forward pass: a list of (logits before each token, labels)."""
    model, head, text = learner.model, learner.head, batch.text
    found = []
    for row in range(len(text.ids)):
        part = slice(row * learner.view.num_dynimgs, (row + 1) * learner.view.num_dynimgs)
        pixels = batch.pixels[part].float() / 127.5 - 1
        count = torch.tensor([len(pixels)])
        for block in range(1, int(text.block[row].max()) + 1):
            own = text.block[row] == block
            ids = torch.cat((head, text.ids[row, own]))[None]
            logits = model(input_ids=ids, pixel_values_videos=pixels, dynimgs_per_video=count).logits
            found.append((logits[0, len(head) - 1 : -1], text.labels[row, own]))
    return found


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_loss_and_logits_are_those_of_the_models_own_forward_pass(arm, tokenizer, bank):
    learner = tiny_learner(tokenizer, **arm)
    layout = learner.layout
    whole = layout.tiles[0].height * layout.tiles[0].width
    batch = batch_of(learner, bank, tokenizer, BatchPlan(2, whole, 2))
    with torch.no_grad():
        expected = through_the_model(learner, batch)
        losses, correct = learner.losses(batch)
    logits = torch.cat([each for each, _ in expected])
    labels = torch.cat([each for _, each in expected])
    torch.testing.assert_close(losses["text"], F.cross_entropy(logits, labels), rtol=1e-4, atol=1e-5)
    right = (logits.argmax(-1) == labels) | (labels == -100)
    assert int((~right).sum()) == int((~correct).sum())
    assert torch.isfinite(torch.stack(list(losses.values()))).all()


@pytest.mark.parametrize("arm", [{}, {"prompt_stage": "tiles"}], ids=str)
def test_visual_tokens_are_the_models_own(arm, tokenizer, bank):
    learner = tiny_learner(tokenizer, **arm)
    batch = batch_of(learner, bank, tokenizer, BatchPlan(2, 8, 1))
    with torch.no_grad():
        features, _, _ = learner.encode(batch.pixels, batch.keep_tokens)
        found = learner.project(features)
        pixels = batch.pixels.float() / 127.5 - 1
        expected = torch.stack(learner.model.get_video_features(pixels, return_dict=True).pooler_output)
    torch.testing.assert_close(found, expected[:, batch.keep_tokens], rtol=1e-4, atol=1e-5)


def test_tokens_that_are_left_out_leave_the_places_of_the_others(tokenizer, bank):
    learner = tiny_learner(tokenizer, num_dynimgs=2)
    batch = batch_of(learner, bank, tokenizer, BatchPlan(2, 3, 1))
    visual = torch.zeros(2, 2 * len(batch.keep_tokens), 32)
    _, positions, shared = learner.text_inputs(visual, batch.keep_tokens, batch.text)
    whole = learner.model.model.position_ids((learner.head == learner.model.config.video_token_id)[None], None)[:, 0]
    start = int((learner.head == learner.model.config.video_token_id).float().argmax())
    kept = [start + 16 * number + int(token) for number in range(2) for token in batch.keep_tokens]
    assert torch.equal(positions[:, 0, start : start + len(kept)], whole[:, kept])
    assert torch.equal(positions[:, 0, shared - 1], whole[:, -1])
    assert float(positions[3, 0, shared]) == float(whole[3, -1]) + 1


@pytest.mark.parametrize(
    ("stage", "there"),
    [
        ("before", set(DENSE)),
        ("tiles", {"covered", "kind", "shape", "cover_shape", "centre", "where"}),
        ("after", {"covered", "kind", "shape", "cover_shape", "centre", "where"}),
        ("none", set()),
    ],
)
def test_only_losses_that_can_be_lowered_are_there_and_all_reach_the_tower(stage, there, tokenizer, bank):
    learner = tiny_learner(tokenizer, prompt_stage=stage)
    batch = batch_of(learner, bank, tokenizer, BatchPlan(3, 4, 1))
    losses, _ = learner.losses(batch)
    assert set(losses) == there | {"text"}
    weight = learner.model.model.vision_tower.embeddings.patch_embedding.weight
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
        assert (gradient is not None and gradient.abs().sum() > 0) or float(loss) == 0, name


def test_without_strip_only_losses_of_one_frame_are_there(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    batch = batch_of(learner, bank, tokenizer, BatchPlan(3, 4, 1, has_strip=False))
    losses, _ = learner.losses(batch)
    assert set(losses) == set(DENSE) - set(OF_MOTION) | {"text"}
    assert len(batch.keep_tokens) == 4
    layout = learner.layout
    strip = batch.pixels[:, :, layout.pixel_tiles[0].height :]
    assert int(strip.max()) == 0


@pytest.mark.parametrize("world", [None, WorldPlan(families=("shape_of",))])
def test_one_object_is_in_the_tokens_about_a_place(world, tokenizer, bank):
    view = View(DynImgLayout(num_prompt_frames=4, token_grid=8, patch_grid=16, patch_size=8))
    plan = BatchPlan(20, 9, 1, camera_share=0.0, one_object=True, world=world)
    places, asked = set(), set()
    for number in range(20):
        batch = MotionDataset(plan, view, 20, 0, tokenizer, bank, vary=False)[number]
        key = batch.keep_tokens[batch.keep_tokens < 48]
        assert (len(key), len(batch.keep_tokens)) == (9, 25)
        places.add(tuple(key.tolist()))
        # The middles of all that is there lie in the nine tokens (of 6 rows of 8); a patch is a quarter of a token.
        patches = batch.targets.centre[:, :192].nonzero()
        assert len(patches) == len(set(patches[:, 0].tolist())) <= 20
        tokens = patches[:, 1] // 16 // 2 * 8 + patches[:, 1] % 16 // 2
        assert torch.isin(tokens, key).float().mean() > 0.95
        asked |= set(batch.text.family.unique().tolist())
    assert len(places) > 10
    assert len(asked) > 5 if world is None else len(asked) == 2  # with -1, of what is padded


def test_windows_take_turns_from_step_to_step(tokenizer, bank):
    layout = DynImgLayout(num_prompt_frames=4, token_grid=8, patch_grid=16, patch_size=8)
    plan = BatchPlan(2, (3, 6, 48), 0, one_object=True, has_strip=False)
    alone = MotionDataset(plan, View(layout), 6, 0, bank=bank)
    assert [len(alone[number].keep_tokens) for number in range(6)] == [3, 6, 48] * 2
    # Both processes of a step take as many, of other clips.
    stage = Stage("shapes", 4, BatchPlan(2, 0, 0), beside=Lesson(plan))
    data = StagedDataset(WorldSettings(num_pictures=2), Schedule((stage,)), View(layout), tokenizer, batches_per_step=2)
    drawn = [data[number] for number in range(8)]
    counts = [len(each["beside"]["keep_tokens"]) for each in drawn]
    assert counts == [3, 3, 6, 6, 48, 48, 3, 3]
    assert not torch.equal(drawn[4]["beside"]["pixels"], drawn[5]["beside"]["pixels"])


def test_the_shape_of_what_is_covered_is_a_loss_over_those_patches(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    batch = batch_of(learner, bank, None, BatchPlan(6, 48, 0))
    with torch.no_grad():
        losses, _ = learner.losses(batch)
        features, _, _ = learner.encode(batch.pixels, batch.keep_tokens)
        logits = learner.heads(features)["shape"]
    truth = batch.targets.shape[:, learner.frame_rank[learner.kept_patches(batch.keep_tokens)]]
    found = [
        float(logits[clip, patch].logsumexp(0) - logits[clip, patch, int(truth[clip, patch])])
        for clip, patch in truth.nonzero().tolist()
    ]
    assert 0 < len(found) < truth.numel() / 2
    assert float(losses["cover_shape"]) == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_only_what_is_asked_for_is_asked_and_each_answer_as_often(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    plan = BatchPlan(30, 4, 1, families=("direction",))
    dataset = MotionDataset(plan, learner.view, 10, 0, tokenizer, bank, chat_share=0.0, vary=False, with_targets=False)
    answers = []
    for batch in map(dataset.__getitem__, range(10)):
        assert len(batch.pixels) == 30
        answers += [tokenizer.decode(row[row >= 0], skip_special_tokens=True).strip() for row in batch.text.labels]
    ways = Counter("turn" if answer.startswith("First") else answer for answer in answers)
    assert set(ways) == {"turn", *PATH_ANSWERS.values()} - {"It appears.", "It disappears."}
    share, total = 1 / len(ways), len(answers)
    assert total == 300
    assert all(abs(count / total - share) < 4 * math.sqrt(share * (1 - share) / total) for count in ways.values())


def test_what_no_clip_can_be_asked_about_is_said(tokenizer, bank):
    plan = BatchPlan(3, 4, 1, camera_share=0.0, families=("camera",))
    with pytest.raises(InputError, match="no clip can be asked about camera"):
        MotionDataset(plan, tiny_learner(tokenizer).view, 1, 0, tokenizer, bank)  # before any process draws


def test_one_object_needs_the_keyframe_in_the_middle_of_the_clip(tokenizer, bank):
    learner = tiny_learner(tokenizer, num_dynimgs=2)
    with pytest.raises(InputError, match="one_object needs num_dynimgs: 1"):
        batch_of(learner, bank, tokenizer, BatchPlan(2, 4, 1, one_object=True))


def test_one_object_betrays_nothing_about_its_motion(tokenizer):
    scenes = sample_scenes(40_000, 4, torch.Generator().manual_seed(0), camera_share=0.0)
    whole = scenes.rows(scenes.num_objects == 1)
    near, place = look_at_one(scenes, 2_000, torch.Generator().manual_seed(1))
    assert int(near.num_objects.min()) == int(near.num_objects.max()) == 1
    assert float((near.position[:, 0] - place).square().sum(1).sqrt().max()) < 0.35
    for kind in range(len(KINDS)):
        share = float((whole.kind_id[:, 0] == kind).float().mean())
        error = math.sqrt(share * (1 - share) / 2_000) + 1e-9
        assert abs(float((near.kind_id[:, 0] == kind).float().mean()) - share) < 4 * error


def test_what_is_learnt_beside_adds_to_the_loss(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    batches = [
        batch_of(learner, bank, tokenizer, BatchPlan(3, 4, 1)),
        batch_of(learner, bank, None, BatchPlan(5, 2, 0, one_object=True, has_strip=False)),
    ]
    nothing = dict.fromkeys(vars(LossWeights()), 0.0)
    stage = Stage.from_values(
        {
            "name": "a",
            "steps": 1,
            "batch": {"batch_size": 3, "num_keyframe_tokens": 4, "num_questions": 1},
            "beside": {
                "batch": {"batch_size": 5, "num_keyframe_tokens": 2, "num_questions": 0, "has_strip": False},
                "losses": {**nothing, "shape": 3.0, "where": 0.5},
            },
        },
        "stages.a",
    )
    with torch.no_grad():
        outputs = learner(**as_sample(batches, stage))
        alone = learner(**as_sample(batches[:1], replace(stage, beside=None)))
        (losses, _) = learner.losses(batches[1])
    extra = 3.0 * float(losses["shape"]) + 0.5 * float(losses["where"])
    assert float(outputs["loss"]) == pytest.approx(float(alone["loss"]) + extra, rel=1e-5)
    assert {name for name in outputs["losses"] if name.startswith("beside_")} == {f"beside_{name}" for name in losses}
    assert torch.equal(outputs["correct"], alone["correct"])


def test_the_loss_is_the_weighted_sum(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    batch = batch_of(learner, bank, tokenizer, BatchPlan(3, 4, 1))
    weights = vars(LossWeights(text=2.0, flow=0.5, shape=0.25))
    with torch.no_grad():
        outputs = learner(**batch.as_inputs(), weights=weights)
    assert float(outputs["loss"]) == pytest.approx(
        sum(weights[name] * float(value) for name, value in outputs["losses"].items()), rel=1e-5
    )
    again = MotionBatch.from_inputs(batch.as_inputs())
    assert torch.equal(again.targets.flow, batch.targets.flow)
    assert torch.equal(again.text.ids, batch.text.ids)


def test_a_stage_on_text_has_the_same_batches_without_targets(tokenizer, bank):
    learner = tiny_learner(tokenizer)
    plan = BatchPlan(3, 4, 1)
    whole = batch_of(learner, bank, tokenizer, plan)
    losses, correct = learner.losses(whole)
    alone = LossWeights(**{name: float(name == "text") for name in vars(LossWeights())})
    schedule = Schedule((Stage("words", 1, plan, losses=alone), Stage("all", 1, plan)))
    data = StagedDataset(WorldSettings(num_pictures=2), schedule, learner.view, tokenizer)
    bare, full = data[0], data[1]
    assert bare["targets"] is None
    assert full["targets"] is not None
    bare = MotionDataset(plan, learner.view, 1, 0, tokenizer, bank, chat_share=0.5, with_targets=False)[0]
    outputs = learner(**bare.as_inputs(), weights=vars(alone))
    assert torch.equal(bare.pixels, whole.pixels)
    assert set(outputs["losses"]) == {"text"}
    assert torch.equal(outputs["loss"], losses["text"])
    assert torch.equal(outputs["correct"], correct)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_grid": 9, "vision": {"image_size": 72}}, "whole patches"),
        ({"vision": {"image_size": 48}}, "image_size of patch_grid . patch_size, 64"),
        ({"num_dynimgs": 3, "max_dynimgs": 2}, "max_dynimgs of at least num_dynimgs, which is 3"),
        ({"vision_feature_layer": 1}, "vision_feature_layer beyond 1"),
    ],
)
def test_a_model_that_cannot_be_trained_this_way_is_refused(config, message, tokenizer):
    if "vision" in config:
        from motion_runs import MODEL

        config = {**config, "vision": {**MODEL["vision"], **config["vision"]}}
    with pytest.raises(InputError, match=message):
        tiny_learner(tokenizer, **config)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_are_a_function_of_the_seed(tokenizer, bank):
    view = View(DynImgLayout(4, 8, 16, 8))
    plan = BatchPlan(3, 3, 2)
    first, second = (MotionDataset(plan, view, 5, 3, tokenizer, bank)[2] for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.text.ids, second.text.ids)
    other = MotionDataset(plan, view, 5, 4, tokenizer, bank)[2]
    assert not torch.equal(first.pixels[0], other.pixels[0])


def test_all_arms_are_asked_the_same_about_the_same_clips(tokenizer, bank):
    views = [
        View(DynImgLayout(2, 4, 8, 8)),
        View(DynImgLayout(2, 4, 8, 8), prompt_stage="after"),
        View(DynImgLayout(0, 4, 8, 8), prompt_stage="none"),
        View(DynImgLayout(2, 4, 8, 8), num_dynimgs=4),
    ]
    batches = [MotionDataset(BatchPlan(3, 2, 2), view, 1, 0, tokenizer, bank)[0] for view in views]
    assert [tuple(batch.pixels.shape) for batch in batches] == [
        (3, 3, 64, 64), (3, 3, 3, 64, 64), (3, 3, 64, 64), (12, 3, 64, 64)
    ]  # fmt: skip
    for batch in batches[1:]:
        assert torch.equal(batch.text.ids, batches[0].text.ids)
        assert torch.equal(batch.direction_id, batches[0].direction_id)


def test_frames_that_are_apart_show_what_the_composed_ones_show(bank):
    layout = DynImgLayout(2, 4, 8, 8)
    plan = BatchPlan(2, 8, 0)
    whole, apart = (
        MotionDataset(plan, View(layout, prompt_stage=stage), 1, 0, None, bank)[0].pixels.float()
        for stage in ("before", "after")
    )
    for rank, tile in enumerate(layout.pixel_tiles):
        rows, columns = tile.slices
        shrunk = F.interpolate(apart[:, rank], size=tile.size, mode="area")
        assert (whole[:, :, rows, columns] - shrunk).abs().mean() < 12  # of 255: grain, and edges


@pytest.mark.parametrize("count", [1, 2, 4, 6, 12])
def test_half_of_the_prompt_frames_come_before_the_keyframe(count):
    times = prompt_times(500, torch.Generator().manual_seed(0), count)
    assert times.shape == (500, count)
    assert (times[:, : count // 2] <= -0.06).all()
    assert (times[:, count // 2 :] >= 0.06).all()
    assert (times.diff(dim=1) >= 0).all()
    assert times.abs().max() <= 1


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_several_dynimgs_divide_the_clip(count):
    view = View(DynImgLayout(4, 8, 16, 8), num_dynimgs=count)
    times = frame_times(300, view, torch.Generator().manual_seed(0))
    assert times.shape == (300, count, 5)
    assert times.abs().max() <= 1
    middles = torch.tensor([(2 * rank + 1) / count - 1 for rank in range(count)])
    torch.testing.assert_close(times[:, :, 0].mean(0), middles, atol=0.02, rtol=0)
    # Prompt frames lie between the middles of the segments beside their own.
    before = torch.cat((torch.tensor([-1.0]), middles[:-1]))
    after = torch.cat((middles[1:], torch.tensor([1.0])))
    assert (times[:, :, 1:3] >= before[:, None] - 1e-6).all()
    assert (times[:, :, 3:] <= after[:, None] + 1e-6).all()
    if count == 1:
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(times[:, 0, 1:], prompt_times(300, generator))


def test_questions_side_by_side_do_not_see_each_other_and_turns_do(tokenizer):
    exchanges = [[Exchange("anything", "Does anything move?", "Yes."), Exchange("count", "How many?", "One object.")]]
    packed, chat = (Packer(tokenizer, share).pack(exchanges, np.random.default_rng(0)) for share in (0.0, 1.0))
    mask = packed.mask(3)[0, 0]
    second = int((packed.block[0] == 2).float().argmax()) + 3
    first = slice(3, second)
    assert mask[second, :3].all()
    assert not mask[second, first].any()
    assert packed.offset[0, second - 3] == 0
    mask = chat.mask(3)[0, 0]
    length = int((chat.block[0] == 1).sum())
    assert mask[3 + length - 1, : 3 + length].all()  # the end of the second turn sees all before it
    assert chat.offset[0].diff()[: length - 1].eq(1).all()
    assert tokenizer.decode(chat.ids[0]).count("<|im_start|>user") == 1  # the first turn's is in the head


def test_exact_matches_need_every_token(tokenizer):
    exchanges = [[Exchange("anything", "Does anything move?", "Yes.")], [Exchange("count", "How many?", "One object.")]]
    packed = Packer(tokenizer, 0.0).pack(exchanges, np.random.default_rng(0))
    correct = torch.ones_like(packed.ids, dtype=torch.bool)
    assert exact_matches(correct, packed) == {"anything": (1, 1), "count": (1, 1)}
    correct[1, int((packed.labels[1] != -100).float().argmax())] = False
    assert exact_matches(correct, packed) == {"anything": (1, 1), "count": (0, 1)}


@pytest.mark.parametrize("count", [2, 4])
def test_every_patch_has_the_truth_about_its_own_place(count, tokenizer):
    learner = tiny_learner(tokenizer, num_prompt_frames=count)
    assert torch.equal(frame_patches(learner.layout)[learner.frame_rank], torch.arange(64))


def test_camera_and_direction_are_read_off_all_dynimgs_of_a_clip(tokenizer, bank):
    learner = tiny_learner(tokenizer, num_dynimgs=3)
    batch = batch_of(learner, bank, None, BatchPlan(16, 8, 0))
    with torch.no_grad():
        losses, _ = learner.losses(batch)
        read = learner.heads(learner.encode(batch.pixels, batch.keep_tokens)[0])
    for name, known in (("camera", batch.camera_id), ("direction", batch.direction_id)):
        logits = torch.stack([read[name][3 * clip : 3 * clip + 3].mean(0) for clip in range(16)])
        there = known >= 0
        assert there.any()
        assert float(losses[name]) == pytest.approx(float(F.cross_entropy(logits[there], known[there])), rel=1e-4)

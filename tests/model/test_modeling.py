import pytest
import torch
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from dynimg_vl import DynImgForConditionalGeneration, InputError
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_model

TABLE_6 = [
    {"rope_axes": "s"},
    {"rope_axes": "hws", "rope_combine": "split", "rope_trainable": False},
    {"rope_axes": "hws", "rope_combine": "split"},
    {"rope_axes": "hws", "rope_combine": "merge"},
    {"rope_axes": "hwts", "rope_combine": "split", "rope_trainable": False},
    {"rope_axes": "hwts", "rope_combine": "split"},
    {"rope_axes": "hwts", "rope_combine": "merge"},
    {"sequence_step": "token"},
]
STAGES = [{"prompt_stage": stage} for stage in ("before", "after", "tiles", "none")]


def theta_of(model):
    return model.model.language_model.rotary_emb.axis_theta


@pytest.mark.parametrize("options", [*TABLE_6, *STAGES])
def test_every_row_of_the_ablations_learns(options):
    model = tiny_model(**options)
    inputs = tiny_inputs(model.config)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    theta = theta_of(model)
    if options.get("rope_axes") == "s":
        assert theta is None
    elif options.get("rope_trainable", True):
        assert theta.grad.abs().sum() > 0
    else:
        assert theta.grad is None
    # DistributedDataParallel stops at a parameter that learns but gets no gradient.
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


def test_the_rows_differ():
    inputs = tiny_inputs(tiny_config())
    # With theta off its start, and less the fixed rows, which only differ from the trainable ones in what learns.
    rows = [options for options in TABLE_6 if options.get("rope_trainable", True)]
    logits = [tiny_model(theta=0.1, **options)(**inputs).logits[0, -1] for options in rows]
    assert all(not a.allclose(b, atol=1e-3) for i, a in enumerate(logits) for b in logits[:i])


def test_the_answer_depends_on_pixels_and_on_their_order():
    model, inputs = tiny_model(), tiny_inputs(tiny_config())
    reference = model(**inputs).logits[:, -1]
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].flip(0)
    assert not model(**inputs).logits[:, -1].allclose(reference, atol=1e-3)


def test_the_forward_pass_is_its_steps():
    """Encode, project, place, position, decode: the same by hand, with SigLIP's second-to-last hidden state."""
    model, inputs = tiny_model(theta=0.1), tiny_inputs(tiny_config())
    inner = model.model
    states = inner.vision_tower(inputs["pixel_values_videos"], output_hidden_states=True).hidden_states
    tokens = inner.multi_modal_projector(states[-2]).flatten(0, 1)
    embeds = inner.get_input_embeddings()(inputs["input_ids"])
    embeds[inputs["input_ids"] == VIDEO_TOKEN_ID] = tokens
    positions = inner.position_ids(inputs["input_ids"] == VIDEO_TOKEN_ID, None)
    hidden = inner.language_model(inputs_embeds=embeds, position_ids=positions).last_hidden_state
    torch.testing.assert_close(model(**inputs).logits, model.lm_head(hidden))
    assert isinstance(inner.vision_tower, SiglipVisionModel)


@pytest.mark.parametrize("layer", [-2, -1, 2])
def test_any_vision_layer_can_be_projected(layer):
    model, inputs = tiny_model(vision_feature_layer=layer), tiny_inputs(tiny_config())
    output = model.get_video_features(inputs["pixel_values_videos"])
    states = model.model.vision_tower(inputs["pixel_values_videos"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(output.last_hidden_state, states[layer])


def test_features_come_as_one_tensor_per_video():
    model, inputs = tiny_model(max_dynimgs=2), tiny_inputs(tiny_config(), num_dynimgs=4)
    pixels = inputs["pixel_values_videos"]
    lengths = [len(video) for video in model.get_video_features(pixels, torch.tensor([1, 3])).pooler_output]
    assert lengths == [16, 32]  # the second is averaged over time, 3 to 2
    assert [len(video) for video in model.get_video_features(pixels).pooler_output] == [16] * 4
    with pytest.raises(InputError, match="sums to 3, but there are 4"):
        model.get_video_features(pixels, torch.tensor([1, 2]))


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_position_embeddings_are_interpolated_with_gradients(precision):
    """As for 27 x 27 patches of the checkpoint and 24 x 24 of a DynImg."""
    model = tiny_model(vision={"image_size": 72})
    assert model.model.vision_tower.embeddings.position_embedding.weight.shape[0] == 81
    inputs = tiny_inputs(model.config)
    if precision == "bfloat16":
        model = model.to(torch.bfloat16)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert model.model.vision_tower.embeddings.position_embedding.weight.grad.abs().sum() > 0
    assert theta_of(model).dtype == torch.float32
    assert theta_of(model).grad.abs().sum() > 0


def test_a_count_that_does_not_match_is_an_error_with_both_numbers():
    model, inputs = tiny_model(), tiny_inputs(tiny_config())
    with pytest.raises(InputError, match=r"32 video placeholders.* 16 visual tokens"):
        model(input_ids=inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"][:1])
    with pytest.raises(InputError, match=r"32 video placeholders.* 0 visual tokens"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(InputError, match=r"0 video placeholders.* 32 visual tokens"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), pixel_values_videos=inputs["pixel_values_videos"])


@pytest.mark.parametrize("options", STAGES)
def test_pixels_of_another_shape_are_refused(options):
    model = tiny_model(**options)
    with pytest.raises(InputError, match=f"prompt_stage={options['prompt_stage']!r}"):
        model.get_video_features(torch.zeros(2, 3, 32, 32))


def test_a_batch_is_its_rows_alone_left_padded():
    model = tiny_model(theta=0.1)
    rows = [tiny_inputs(model.config, num_dynimgs=n, before=n, after=2 * n, seed=n) for n in (1, 3)]
    text = {"input_ids": torch.randint(6, 100, (1, 5))}
    rows.append({**text, "attention_mask": torch.ones_like(text["input_ids"])})
    length = max(row["input_ids"].shape[1] for row in rows)
    padded = {
        name: torch.cat([torch.nn.functional.pad(row[name], (length - row[name].shape[1], 0)) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    for name in ("pixel_values_videos", "dynimgs_per_video"):
        padded[name] = torch.cat([row[name] for row in rows if name in row])
    logits = model(**padded).logits
    for rank, row in enumerate(rows):
        alone = model(**row).logits[0]
        torch.testing.assert_close(logits[rank, length - len(alone) :], alone, rtol=1e-3, atol=1e-4)


def test_packed_rows_equal_separate_rows():
    model = tiny_model(theta=0.1)
    rows = [tiny_inputs(model.config, num_dynimgs=n, seed=n) for n in (1, 2)]
    packed = model(
        input_ids=torch.cat([row["input_ids"] for row in rows], 1),
        pixel_values_videos=torch.cat([row["pixel_values_videos"] for row in rows]),
        position_ids=torch.cat([torch.arange(row["input_ids"].shape[1]) for row in rows])[None],
    ).logits
    torch.testing.assert_close(packed, torch.cat([model(**row).logits for row in rows], 1), rtol=1e-3, atol=1e-4)


def test_float_token_indices_are_refused():
    """An s row without its axes would cut the sequence into packed pieces, silently."""
    with pytest.raises(InputError, match=r"\(4, B, L\)"):
        tiny_model()(input_ids=torch.ones(1, 4, dtype=torch.long), position_ids=torch.zeros(1, 4))


def test_embeddings_can_replace_ids():
    model, inputs = tiny_model(theta=0.1), tiny_inputs(tiny_config())
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    torch.testing.assert_close(model(inputs_embeds=embeds, **rest).logits, model(**inputs).logits)


def test_saving_and_loading_keeps_everything(tmp_path):
    model = tiny_model(theta=0.1, rope_combine="split", vision={"image_size": 72})
    model.save_pretrained(tmp_path)
    again, report = DynImgForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theta_of(again).equal(theta_of(model))
    assert theta_of(again).any()
    for name in ("layout", "rope_axes", "rope_combine", "sequence_step", "vision_feature_layer", "video_token_id"):
        assert getattr(again.config, name) == getattr(model.config, name)
    inputs = tiny_inputs(model.config)
    assert again.eval()(**inputs).logits.equal(model(**inputs).logits)


@pytest.mark.parametrize("options", TABLE_6[:3])
def test_loading_leaves_frozen_what_does_not_learn(tmp_path, options):
    """transformers makes every parameter of a loaded checkpoint learn, frozen or not."""
    model = tiny_model(**options)
    model.save_pretrained(tmp_path)
    again = DynImgForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    learning = [{name for name, value in m.named_parameters() if value.requires_grad} for m in (model, again)]
    assert learning[0] == learning[1]
    assert "model.vision_tower.post_layernorm.weight" not in learning[0]
    assert ("model.language_model.rotary_emb.axis_theta" in learning[0]) == (options == TABLE_6[2])
    if theta_of(model) is not None:
        assert theta_of(again).equal(theta_of(model))


def test_a_bfloat16_checkpoint_keeps_theta_in_float32(tmp_path):
    model = tiny_model(theta=0.1)
    model.save_pretrained(tmp_path)
    low = DynImgForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    rotary = low.model.language_model.rotary_emb
    assert low.dtype == torch.bfloat16
    assert (rotary.axis_theta.dtype, rotary.inv_freq.dtype) == (torch.float32, torch.float32)
    assert rotary.axis_theta.equal(theta_of(model))
    assert rotary.inv_freq.equal(model.model.language_model.rotary_emb.inv_freq)


def test_weights_can_be_tied(tmp_path):
    model = tiny_model(text={"tie_word_embeddings": True})
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path)
    again = DynImgForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight.data_ptr() == again.get_input_embeddings().weight.data_ptr()


def gradients(model, inputs):
    model.train()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients():
    inputs = tiny_inputs(tiny_config())
    plain = gradients(tiny_model(theta=0.1), inputs)
    checkpointed = tiny_model(theta=0.1)
    checkpointed._set_gradient_checkpointing(
        True, lambda function, *args: torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)
    )
    assert any(layer.gradient_checkpointing for layer in checkpointed.model.language_model.layers)
    again = gradients(checkpointed, inputs)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the newer name does not exist in transformers 5.19
def test_reentrant_checkpointing_is_refused_while_theta_learns():
    with pytest.raises(InputError, match="use_reentrant=False"):
        tiny_model().gradient_checkpointing_enable({"use_reentrant": True})
    tiny_model(rope_trainable=False).gradient_checkpointing_enable({"use_reentrant": True})
    tiny_model().gradient_checkpointing_enable()


def test_a_batch_of_text_still_reaches_the_vision_tower_in_distributed_training(monkeypatch):
    model = tiny_model().train()
    ids = torch.randint(6, 100, (1, 5))
    expected = model(input_ids=ids).logits
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    output = model(input_ids=ids, labels=ids)
    assert output.logits.equal(expected)
    output.loss.backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


def test_the_loss_is_that_of_the_labels():
    model, inputs = tiny_model(), tiny_inputs(tiny_config())
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    output = model(**inputs, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[0, -3:-1], labels[0, -2:])
    torch.testing.assert_close(output.loss, expected)


def test_token_steps_with_theta_at_zero_are_plain_positions():
    """What a pretrained LLM knows about visual tokens is kept exactly, before theta has moved."""
    inputs = tiny_inputs(tiny_config())
    plain, stepped, paper = (
        tiny_model(**options)(**inputs).logits for options in ({"rope_axes": "s"}, {"sequence_step": "token"}, {})
    )
    assert stepped.equal(plain)
    assert not paper.allclose(plain, atol=1e-3)

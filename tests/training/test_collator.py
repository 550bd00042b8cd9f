"""Batches: padding, samples of text alone, and packed rows whose loss is that of separate ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl import InputError
from dynimg_vl.training.data.chat_tokens import NO_LOSS
from dynimg_vl.training.data.collator import Collator, pack
from tiny import tiny_inputs, tiny_model

PAD = 0


def item(config, num_dynimgs=2, before=3, after=4, seed=0):
    """Make a sample with loss on what follows its video; without DynImgs, one of text alone."""
    inputs = tiny_inputs(config, num_dynimgs=max(1, num_dynimgs), before=before, after=after, seed=seed)
    ids = inputs["input_ids"][0]
    labels = ids.clone()
    labels[:-after] = NO_LOSS
    if num_dynimgs == 0:
        kept = ids != config.video_token_id
        return {"input_ids": ids[kept], "labels": labels[kept]}
    names = ("pixel_values_videos", "dynimgs_per_video")
    return {"input_ids": ids, "labels": labels, **{name: inputs[name] for name in names}}


@pytest.fixture(scope="module")
def model():
    return tiny_model(theta=0.3)


@pytest.fixture(scope="module")
def items(model):
    shapes = [(2, 3, 4), (0, 5, 3), (1, 2, 9), (3, 1, 2), (0, 9, 6)]
    return [item(model.config, *shape, seed=seed) for seed, shape in enumerate(shapes)]


def losses(model, batch):
    """Give the loss of every label, in the order of the labels' values and places within a sample."""
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    labels = batch["labels"][:, 1:]
    each = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none")
    return each[labels.flatten() != NO_LOSS]


def test_padding(items):
    batch = Collator(PAD, multiple_of=8)(items)
    lengths = [len(item["input_ids"]) for item in items]
    assert batch["input_ids"].shape == (5, -(-max(lengths) // 8) * 8)
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, (single, length) in enumerate(zip(items, lengths, strict=True)):
        torch.testing.assert_close(batch["input_ids"][row, :length], single["input_ids"])
        torch.testing.assert_close(batch["labels"][row, :length], single["labels"])
        assert (batch["input_ids"][row, length:] == PAD).all()
        assert (batch["labels"][row, length:] == NO_LOSS).all()
    assert batch["dynimgs_per_video"].tolist() == [2, 1, 3]
    assert len(batch["pixel_values_videos"]) == 6


def test_text_alone_has_no_pixels(items):
    batch = Collator(PAD)([items[1], items[4]])
    assert batch.keys() == {"input_ids", "labels", "attention_mask"}


def test_batched_losses_are_those_of_single_samples(model, items):
    batch = Collator(PAD)(items)
    alone = torch.cat([losses(model, Collator(PAD)([single])) for single in items])
    torch.testing.assert_close(losses(model, batch), alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("length", [400, 100, 60])
def test_packed_losses_are_those_of_single_samples(model, items, length):
    """In one row, in several, and in rows that hold one sample and padding."""
    batch = Collator(PAD, pack_length=length, multiple_of=16)(items)
    assert "attention_mask" not in batch
    if length == 400:
        assert len(batch["input_ids"]) == 1
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        lengths = sorted((len(single["input_ids"]) for single in items), reverse=True)
        assert starts[:5] == [0, *torch.tensor(lengths).cumsum(0).tolist()[:-1]]
    packed = losses(model, batch).sort().values
    alone = torch.cat([losses(model, Collator(PAD)([single])) for single in items]).sort().values
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=0)


def test_the_model_s_own_loss_is_the_same_packed_and_separate(model, items):
    with torch.no_grad():
        packed = model(**Collator(PAD, pack_length=400)(items)).loss
        padded = model(**Collator(PAD)(items)).loss
    torch.testing.assert_close(packed, padded, atol=2e-6, rtol=0)


def test_gradients_are_the_same_packed_and_separate(items):
    gradients = []
    for collator in (Collator(PAD, pack_length=400), Collator(PAD)):
        model = tiny_model(theta=0.3)
        model(**collator(items)).loss.backward()
        rotary = model.model.language_model.rotary_emb
        gradients.append([rotary.axis_theta.grad, model.model.multi_modal_projector.linear_1.weight.grad])
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(50, 90))
def test_packing_keeps_every_sample_once_and_within_the_row(lengths, length):
    items = [{"input_ids": torch.full((size,), number)} for number, size in enumerate(lengths)]
    rows = pack(items, length)
    assert all(sum(len(item["input_ids"]) for item in row) <= length for row in rows)
    assert sorted(int(item["input_ids"][0]) for row in rows for item in row) == list(range(len(lengths)))


def test_a_sample_longer_than_a_row_is_refused(items):
    with pytest.raises(InputError, match="a sample of 51 tokens does not fit a row of 40"):
        Collator(PAD, pack_length=40)([items[3]])

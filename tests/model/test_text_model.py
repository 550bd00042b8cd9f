import itertools

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2ForCausalLM, Qwen2Model

from dynimg_vl import InputError
from dynimg_vl.model import DynImgTextModel
from dynimg_vl.training.data.collator import Collator
from tiny import tiny_config, tiny_inputs, tiny_model

TEXT = tiny_config().text_config
OPTIONS = [{}, {"rope_axes": "hws"}, {"rope_axes": "s"}, {"rope_combine": "split"}]


@pytest.fixture
def pair():
    """Give Qwen2 and the DynImg text model with the same weights."""

    def build(**options):
        torch.manual_seed(0)
        stock = Qwen2Model(TEXT).eval()
        ours = DynImgTextModel(TEXT, **options).eval()
        assert ours.load_state_dict(stock.state_dict(), strict=False).unexpected_keys == []
        return stock, ours

    return build


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_text_is_qwen2_bit_for_bit(pair, options, padded):
    stock, ours = pair(**options)
    ids = torch.randint(6, 100, (2, 17))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :6] = 0
    index = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = stock(ids, attention_mask=mask, position_ids=index).last_hidden_state
    for position_ids in (index, index.float().expand(4, -1, -1)):
        result = ours(ids, attention_mask=mask, position_ids=position_ids).last_hidden_state
        assert result[mask.bool()].equal(expected[mask.bool()])


def test_positions_count_on_from_the_cache_by_default(pair):
    stock, ours = pair()
    ids = torch.randint(6, 100, (1, 8))
    cache = ours(ids[:, :5], use_cache=True).past_key_values
    result = ours(ids[:, 5:], past_key_values=cache, use_cache=True).last_hidden_state
    torch.testing.assert_close(result, stock(ids).last_hidden_state[:, 5:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_plain_qwen2_checkpoint_loads_with_the_initial_theta(tmp_path, options):
    stock = Qwen2ForCausalLM(TEXT)
    stock.save_pretrained(tmp_path)
    ours, report = DynImgTextModel.from_pretrained(tmp_path, output_loading_info=True, **options)
    rotary = ours.rotary_emb
    assert set(report["missing_keys"]) == (set() if rotary.axis_theta is None else {"rotary_emb.axis_theta"})
    assert not report["unexpected_keys"]
    # inv_freq is not saved: a class that transformers does not know by name would leave garbage in it.
    assert rotary.inv_freq.equal(stock.model.rotary_emb.inv_freq)
    if rotary.axis_theta is not None:
        assert rotary.axis_theta.equal(rotary.initial_axis_theta())


@pytest.mark.parametrize("rows", [4, 5])
def test_coordinates_never_reach_a_decoder_layer_or_a_mask(pair, monkeypatch, rows):
    """What looks like a step other than 1 counts as the start of a packed sequence, in masks and in FlashAttention."""
    seen = []
    forward = Qwen2DecoderLayer.forward

    def spy(self, *args, **kwargs):
        seen.append(kwargs["position_ids"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Qwen2DecoderLayer, "forward", spy)
    _, ours = pair()
    ours(torch.randint(6, 100, (1, 9)), position_ids=torch.zeros(rows, 1, 9))
    assert all(value is None if rows == 4 else value.shape == (1, 9) for value in seen)
    assert seen


def test_repeated_s_does_not_cut_the_sequence(pair):
    _, ours = pair()
    ids = torch.randint(6, 100, (1, 9))
    coordinates = torch.tensor([0, 1, 1, 1, 1, 2, 3, 4, 5.0]).expand(4, 1, -1)
    with_mask = ours(ids, position_ids=coordinates, attention_mask=torch.ones_like(ids)).last_hidden_state
    without = ours(ids, position_ids=coordinates).last_hidden_state
    assert without.equal(with_mask)


def test_packed_sequences_equal_separate_runs(pair):
    _, ours = pair()
    first, second = torch.randint(6, 100, (1, 5)), torch.randint(6, 100, (1, 7))
    index = torch.cat([torch.arange(5), torch.arange(7)])[None]
    packed = ours(torch.cat([first, second], 1), position_ids=index.float().expand(5, -1, -1)).last_hidden_state
    apart = torch.cat([ours(first).last_hidden_state, ours(second).last_hidden_state], 1)
    torch.testing.assert_close(packed, apart, rtol=1e-4, atol=1e-5)


def test_positions_of_another_shape_are_refused(pair):
    _, ours = pair()
    with pytest.raises(InputError, match=r"got \(3, 1, 4\)"):
        ours(torch.randint(6, 100, (1, 4)), position_ids=torch.zeros(3, 1, 4))


def test_sliding_windows_work_as_in_qwen2(pair):
    config = tiny_config(text={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}).text_config
    torch.manual_seed(0)
    stock, ours = Qwen2Model(config).eval(), DynImgTextModel(config).eval()
    ours.load_state_dict(stock.state_dict(), strict=False)
    ids = torch.randint(6, 100, (1, 12))
    assert ours(ids).last_hidden_state.equal(stock(ids).last_hidden_state)


def reference_attention(query, key, value):
    """Attend causally in (B, L, H, D), with as many heads for the keys as there are."""
    groups = query.shape[2] // key.shape[2]
    parts = [query, key.repeat_interleave(groups, 2), value.repeat_interleave(groups, 2)]
    parts = [part.transpose(1, 2) for part in parts]
    return torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2)


def reference_varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, **_):
    """Attend causally within each sequence of (tokens, H, D)."""
    pairs = itertools.pairwise(cu_seqlens_q.tolist())
    return torch.cat([reference_attention(query[None, a:b], key[None, a:b], value[None, a:b])[0] for a, b in pairs])


@pytest.mark.parametrize("pack_length", [200, 70])
def test_packed_samples_do_not_see_each_other_with_flash_attention(pack_length, monkeypatch):
    """In one row and in several; the kernels need CUDA, all of transformers' path to them does not."""
    dense = lambda *parts, **_: reference_attention(*parts[:3])  # noqa: E731
    kernels = (dense, reference_varlen, None, flash._pad_input, flash._unpad_input)
    nothing = (lambda **_: {}, lambda **_: {})
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (kernels, nothing))
    model = tiny_model(theta=0.1)
    samples = []
    for number in range(4):
        inputs = tiny_inputs(model.config, num_dynimgs=1, before=2 + number, after=5 + number, seed=number)
        ids = inputs["input_ids"][0]
        samples.append({"input_ids": ids, "labels": ids, **{name: inputs[name] for name in list(inputs)[2:]}})
    alone = [
        model(input_ids=each["input_ids"][None], pixel_values_videos=each["pixel_values_videos"]).logits[0]
        for each in samples
    ]
    batch = Collator(0, pack_length)(samples)
    batch.pop("labels")
    monkeypatch.setattr(model.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    logits = model(**batch).logits
    assert len(logits) == (1 if pack_length == 200 else 2)
    num_found = 0
    for row, positions, ids in zip(logits, batch["position_ids"], batch["input_ids"], strict=True):
        starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)]
        for start, stop in itertools.pairwise(starts):
            for each, expected in zip(samples, alone, strict=True):
                if each["input_ids"].equal(ids[start:stop]):
                    num_found += 1
                    torch.testing.assert_close(row[start:stop], expected, rtol=1e-3, atol=1e-4)
    assert num_found == len(samples)

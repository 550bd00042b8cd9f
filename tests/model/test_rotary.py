import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

from dynimg_vl.model import DynImgRotaryEmbedding

HEAD_DIM = 16
CONFIG = Qwen2Config(
    hidden_size=2 * HEAD_DIM,
    num_attention_heads=2,
    num_key_value_heads=2,
    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
)


def rotary(theta: float = 0.0, **options) -> DynImgRotaryEmbedding:
    module = DynImgRotaryEmbedding(CONFIG, **options)
    if theta:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            module.axis_theta.add_(theta * torch.randn(module.axis_theta.shape, generator=generator))
    return module


def rotate(module, vectors, position_ids):
    """Rotate vectors (B, L, head_dim) at coordinates (4, B, L)."""
    cos, sin = module(vectors, position_ids)
    return apply_rotary_pos_emb(vectors[:, None], vectors[:, None], cos, sin)[0][:, 0]


def literal(module, vectors, position_ids):
    """Equations 1 and 2 word by word, one channel pair at a time."""
    half = HEAD_DIM // 2
    result = torch.empty_like(vectors)
    for i in range(half):
        x_h, x_w, x_t, x_s = position_ids
        theta_h, theta_w, theta_t = module.axis_theta[:, i]
        theta_s = 1_000_000.0 ** (-2 * i / HEAD_DIM)
        angle = x_h * theta_h + x_w * theta_w + x_t * theta_t + x_s * theta_s
        q1, q2 = vectors[..., i], vectors[..., i + half]
        result[..., i] = q1 * angle.cos() - q2 * angle.sin()
        result[..., i + half] = q2 * angle.cos() + q1 * angle.sin()
    return result


coordinates = st.lists(st.integers(-40, 400), min_size=4, max_size=4)
variants = st.sampled_from(
    [{"rope_axes": axes, "rope_combine": combine} for axes in ("hws", "hwts") for combine in ("merge", "split")]
)


def column(values):
    return torch.tensor(values, dtype=torch.float32).view(4, 1, 1)


def test_merged_rotary_is_equations_1_and_2():
    module = rotary(theta=0.3)
    vectors, position_ids = torch.randn(2, 9, HEAD_DIM), 50 * torch.rand(4, 2, 9)
    torch.testing.assert_close(
        rotate(module, vectors, position_ids), literal(module, vectors, position_ids), rtol=1e-5, atol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(position=coordinates, variant=variants)
def test_it_is_a_rotation(position, variant):
    vectors = torch.randn(1, 1, HEAD_DIM)
    turned = rotate(rotary(theta=0.3, **variant), vectors, column(position))
    torch.testing.assert_close(turned.norm(), vectors.norm(), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(query=coordinates, key=coordinates, shift=coordinates, variant=variants)
def test_scores_depend_on_differences_only(query, key, shift, variant):
    module = rotary(theta=0.3, **variant)
    q, k = torch.randn(1, 1, HEAD_DIM), torch.randn(1, 1, HEAD_DIM)
    moved = [column([a + b for a, b in zip(place, shift, strict=True)]) for place in (query, key)]
    here = (rotate(module, q, column(query)) * rotate(module, k, column(key))).sum()
    there = (rotate(module, q, moved[0]) * rotate(module, k, moved[1])).sum()
    # Angles of some hundred radians are known to 3e-5 in float32; they enter about 16 products of size 1.
    torch.testing.assert_close(here, there, rtol=0, atol=5e-3)


@pytest.mark.parametrize("options", [{}, {"rope_axes": "hws"}, {"rope_axes": "s"}, {"rope_combine": "split"}])
def test_text_turns_as_in_qwen2_bit_for_bit(options):
    module, stock = rotary(**options), Qwen2RotaryEmbedding(CONFIG)
    index = torch.arange(3000)[None]
    for ours, theirs in zip(module(torch.zeros(1), index.expand(4, -1, -1)), stock(torch.zeros(1), index), strict=True):
        assert ours.equal(theirs)


def test_split_gives_each_axis_its_own_channels():
    module = rotary(rope_combine="split")
    assert [(block.start, block.stop) for block in module.channel_blocks(64)] == [(0, 16), (16, 32), (32, 48), (48, 64)]
    for axis in range(4):
        position = torch.zeros(4, 1, 1)
        position[axis] = 3
        turned = (module(torch.zeros(1), position)[1][0, 0, : HEAD_DIM // 2] != 0).nonzero().flatten()
        assert turned.tolist() == [2 * axis, 2 * axis + 1]
    three = DynImgRotaryEmbedding(CONFIG, "hws", "split")
    assert [block.stop - block.start for block in three.channel_blocks(64)] == [21, 21, 22]


@pytest.mark.parametrize(("axes", "rows"), [("hws", 2), ("hwts", 3)])
def test_theta_starts_at_zero_when_merged_and_at_theta_s_when_split(axes, rows):
    assert rotary(rope_axes=axes).axis_theta.equal(torch.zeros(rows, HEAD_DIM // 2))
    split = rotary(rope_axes=axes, rope_combine="split")
    assert split.axis_theta.equal(split.inv_freq.expand(rows, -1))
    assert not rotary(rope_axes=axes, rope_trainable=False).axis_theta.requires_grad
    assert rotary(rope_axes="s").axis_theta is None


def test_gradients_reach_theta_through_the_rotation():
    module = rotary(theta=0.1)
    cos, sin = module(torch.zeros(1), torch.rand(4, 1, 5) * 9)
    (cos + sin).sum().backward()
    assert module.axis_theta.grad.abs().min() > 0


def test_bfloat16_models_keep_float32_angles():
    """At position 30 000 the cosines of a bfloat16 model are those of float32, rounded once: within 2**-8."""
    exact, low = rotary(theta=0.01), rotary(theta=0.01).to(torch.bfloat16)
    assert {low.axis_theta.dtype, low.inv_freq.dtype, low.original_inv_freq.dtype} == {torch.float32}
    position = torch.full((4, 1, 1), 30_000.0)
    reference = exact(torch.zeros(1), position)[0]
    cosines = low(torch.zeros(1, dtype=torch.bfloat16), position)[0]
    assert cosines.dtype == torch.bfloat16
    assert (cosines.float() - reference).abs().max() <= 2**-8
    # Had the frequencies been rounded, nothing would be left of the position.
    rounded = (30_000 * exact.inv_freq.bfloat16().float()).cos() - (30_000 * exact.inv_freq).cos()
    assert rounded.abs().max() > 1


def test_autocast_leaves_angles_alone():
    module, position = rotary(theta=0.01), torch.full((4, 1, 1), 3001.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(torch.zeros(1), position)[0]
    assert inside.dtype == torch.float32
    assert inside.equal(module(torch.zeros(1), position)[0])


def test_without_time_s_is_still_the_last_coordinate():
    module, place = rotary(theta=0.3, rope_axes="hws"), 50 * torch.rand(4, 2, 9)
    theta = [*module.axis_theta, torch.zeros(HEAD_DIM // 2), module.inv_freq]
    angle = sum(x[..., None] * each for x, each in zip(place, theta, strict=True))
    sine = module(torch.zeros(1), place)[1]
    torch.testing.assert_close(sine, torch.cat((angle, angle), -1).sin(), rtol=1e-4, atol=1e-4)
    split = rotary(rope_axes="hws", rope_combine="split")
    for axis, channels in enumerate(([0, 1], [2, 3, 4], [], [5, 6, 7])):
        place = torch.zeros(4, 1, 1)
        place[axis] = 3
        turned = split(torch.zeros(1), place)[1][0, 0, : HEAD_DIM // 2]
        assert turned.nonzero().flatten().tolist() == channels


@pytest.mark.parametrize("options", [{}, {"rope_axes": "hws"}, {"rope_combine": "split"}])
def test_text_turns_as_in_a_qwen2_with_yarn(options):
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32_768}
    config = Qwen2Config(
        hidden_size=2 * HEAD_DIM, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=131_072, rope_parameters=rope,
    )  # fmt: skip
    module, stock = DynImgRotaryEmbedding(config, **options), Qwen2RotaryEmbedding(config)
    assert stock.attention_scaling > 1
    index = torch.arange(3000)[None]
    expected = stock(torch.zeros(1), index)
    for ours, theirs in zip(module(torch.zeros(1), index.expand(4, -1, -1)), expected, strict=True):
        assert ours.equal(theirs)

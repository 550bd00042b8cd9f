"""Arms that share their initial weights; and memory that is kept."""

import json
import platform

import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.training.initial_weights import take_weights
from dynimg_vl.training.memory import keep_freed_memory
from dynimg_vl.training.resuming import check_resumable
from motion_runs import STAGES, TEXT_ONLY, motion_recipe, save_tokenizer
from runs import train_here, weights
from tiny import save_tiny, tiny_model, tiny_tokenizer

THETA = "model.language_model.rotary_emb.axis_theta"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Give the folder of a tiny model with theta off its start."""
    folder = tmp_path_factory.mktemp("source")
    save_tiny(folder)
    return folder


def fresh(**fields):
    text = {"vocab_size": len(tiny_tokenizer()), **fields.pop("text", {})}
    return tiny_model(seed=1, text=text, **fields)


@pytest.mark.parametrize(
    "arm",
    [
        {"rope_combine": "split"},
        {"rope_trainable": False},
        {"sequence_step": "token"},
        {"prompt_stage": "after"},
        {"prompt_stage": "tiles"},
        {"num_prompt_frames": 4},
        {"num_dynimgs": 8},
    ],
    ids=str,
)
def test_arms_with_the_same_weights_take_them_all(arm, source):
    model = fresh(**arm)
    assert take_weights(model, tiny_tokenizer(), str(source)) == []
    for name, value in weights(source).items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.config.to_dict().items() >= arm.items()


def test_what_does_not_fit_is_named_and_left_out_only_where_it_was_said(source):
    model = fresh(rope_axes="s")
    with pytest.raises(InputError, match=rf"{THETA} has no place in this model; .* model.weights_except") as error:
        take_weights(model, tiny_tokenizer(), str(source))
    assert "\n" not in str(error.value)
    assert take_weights(model, tiny_tokenizer(), str(source), ["*.axis_theta"]) == [
        f"{THETA} has no place in this model"
    ]

    model = fresh(rope_axes="hws")
    before = model.state_dict()[THETA].clone()
    shapes = r"has the shape \(3, 4\) there and \(2, 4\) here"
    with pytest.raises(InputError, match=f"{THETA} {shapes}"):
        take_weights(model, tiny_tokenizer(), str(source), ["*.nothing"])
    take_weights(model, tiny_tokenizer(), str(source), [THETA])
    assert torch.equal(model.state_dict()[THETA], before)
    assert torch.equal(model.lm_head.weight, weights(source)["lm_head.weight"])

    deeper = fresh(text={"num_hidden_layers": 3})
    with pytest.raises(InputError, match=r"layers.2.* is missing there, and 11 more do not fit"):
        take_weights(deeper, tiny_tokenizer(), str(source))
    assert len(take_weights(deeper, tiny_tokenizer(), str(source), ["*.layers.2.*"])) == 12


def test_tied_weights_are_not_missing(tmp_path):
    for seed, name in ((0, "one"), (1, "other")):
        model = tiny_model(seed=seed, tie_word_embeddings=True)
        if name == "one":
            model.save_pretrained(tmp_path)
    assert take_weights(model, tiny_tokenizer(), str(tmp_path)) == []
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)
    assert torch.equal(model.lm_head.weight, weights(tmp_path)["model.language_model.embed_tokens.weight"])


def test_a_folder_without_weights_or_with_another_vocabulary_is_refused(source, tmp_path):
    with pytest.raises(InputError, match=r"no model\*.safetensors in"):
        take_weights(fresh(), tiny_tokenizer(), str(tmp_path / "absent"))
    other = tiny_tokenizer()
    other.add_tokens(["word"])
    with pytest.raises(InputError, match="another vocabulary"):
        take_weights(fresh(), other, str(source))
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="cannot be read"):
        take_weights(fresh(), tiny_tokenizer(), str(tmp_path))


def test_a_run_starts_from_the_weights_of_another_with_another_config(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    first = train_here(motion_recipe(tmp_path, tokenizer, output="first", stages=STAGES[1:], max_steps=1))
    arm = {"rope_axes": "hws", "prompt_stage": "none", "weights": str(tmp_path / "first" / "checkpoint-1")}
    frozen = {"learning_rate": 0.0, "muon_learning_rate": 0.0, "axis_theta_learning_rate": 0.0, "weight_decay": 0.0}
    settings = {**TEXT_ONLY, **frozen, "stages": STAGES[1:], "max_steps": 1}
    with pytest.raises(InputError, match=rf"{THETA} has the shape"):
        train_here(motion_recipe(tmp_path, tokenizer, output="arm", model=arm, **settings))
    arm["weights_except"] = ["*.axis_theta"]
    train_here(motion_recipe(tmp_path, tokenizer, output="arm", model=arm, **settings))
    found, expected = weights(tmp_path / "arm" / "checkpoint-1"), weights(tmp_path / "first" / "checkpoint-1")
    assert {name for name in expected if not torch.equal(found[name], expected[name])} == {THETA}
    assert first.model is not None


# --- what may change -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"model": {"path": "/a"}}, {"model": {"path": "/b"}}, None),
        ({"model": {"vision": "/a/b"}}, {"model": {"vision": "/c/b"}}, None),
        ({"model": {"vision": {"hidden_size": 1}}}, {"model": {"vision": {"hidden_size": 2}}}, "hidden_size was 1"),
        ({"model": {"text": {"a": 1}}}, {"model": {"text": {}}}, "text.a was 1 and is null"),
        ({"data": {"world": {"pictures": None}}}, {"data": {"world": {"pictures": "/b"}}}, None),
        ({"data": {"world": None}}, {"data": {"world": {"seed": 1}}}, "data.world was null and is"),
        ({"training": {"learning_rate": 1}}, {"training": {"learning_rate": 2}}, None),
        ({"training": {"optim": "muon"}}, {"training": {"optim": "adamw_torch"}}, "training.optim was"),
        ({"training": {"num_processes": 2}}, {"training": {"num_processes": 4}}, r"had 16 samples .* and has 32"),
        (
            {"training": {"per_device_train_batch_size": "2", "gradient_accumulation_steps": 4, "num_processes": 2}},
            {"training": {"per_device_train_batch_size": 8, "num_processes": 2}},
            None,
        ),
        # Notes of old did not say how many processes there were.
        ({"training": {}}, {"training": {"num_processes": 4}}, None),
        ({"training": {}}, {"training": {"per_device_train_batch_size": 4}}, r"had 8 samples \(8 x 1 x 1\) and has 4"),
        ({"schedule": {"stages": [1]}}, {"schedule": {"stages": [1, 2]}}, "had 1 entries and has 2"),
        (
            {"model": {"config": {"a": 1, "b": 1, "c": 1, "d": 1}}},
            {"model": {"config": {"a": 2, "b": 2, "c": 2, "d": 2}}},
            r"config.c was 1 and is 2 \(and 1 more\)",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_the_run_is_about_has_to_be_the_same(before, now, message, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(before))
    if message is None:
        check_resumable(tmp_path / "checkpoint-1", now)
    else:
        with pytest.raises(InputError, match=message):
            check_resumable(tmp_path / "checkpoint-1", now)


def test_without_a_note_of_the_recipe_nothing_is_refused(tmp_path):
    check_resumable(tmp_path / "checkpoint-1", {"model": 1})


@pytest.mark.parametrize("content", [b"{half of a", b"", b"\xff", b"[]"])
def test_a_note_of_the_recipe_that_cannot_be_read_is_one_line(content, tmp_path):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(InputError, match=r"recipe\.json cannot be read.*another output_dir") as error:
        check_resumable(tmp_path / "checkpoint-1", {"model": 1})
    assert "\n" not in str(error.value)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_kept_where_the_c_library_can_be_told_and_nothing_happens_elsewhere(monkeypatch):
    expected = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() == expected
    assert torch.ones(5_000_000).sum() == 5_000_000
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert not keep_freed_memory()
    monkeypatch.undo()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    import ctypes

    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()

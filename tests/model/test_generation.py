import copy
import threading

import pytest
import torch
import transformers
from transformers import DynamicCache, StaticCache

from dynimg_vl import InputError
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_model

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
VARIANTS = [{}, {"rope_axes": "s"}, {"rope_axes": "hws"}, {"rope_combine": "split"}, {"sequence_step": "token"}]


def two_prompts(config):
    """Make a left-padded batch of prompts with one and two videos; returns it and its rows alone."""
    rows = [tiny_inputs(config, num_dynimgs=n, before=n, after=2 * n + 2, seed=n) for n in (1, 2)]
    second = tiny_inputs(config, num_dynimgs=1, seed=5)
    rows[1] = {name: torch.cat([rows[1][name], second[name]], int(name.endswith(("ids", "mask")))) for name in second}
    length = max(row["input_ids"].shape[1] for row in rows)
    batch = {
        name: torch.cat([torch.nn.functional.pad(row[name], (length - row[name].shape[1], 0)) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    return batch | {name: torch.cat([row[name] for row in rows]) for name in list(rows[0])[2:]}, rows


def generate(model, inputs, **options):
    """Return the new tokens only."""
    return model.generate(**inputs, **{**GREEDY, **options})[:, inputs["input_ids"].shape[1] :]


def without_cache(model, inputs, steps=6):
    """Decode greedily by whole forward passes: the reference for everything else."""
    inputs = dict(inputs)
    for _ in range(steps):
        logits = model(**inputs, use_cache=False).logits[:, -1].clone()
        logits[:, VIDEO_TOKEN_ID] = -torch.inf
        inputs["input_ids"] = torch.cat([inputs["input_ids"], logits.argmax(-1, keepdim=True)], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs["input_ids"][:, -steps:]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_cache_changes_nothing(options):
    model, inputs = tiny_model(theta=0.1, **options), tiny_inputs(tiny_config())
    expected = without_cache(model, inputs)
    assert generate(model, inputs).equal(expected)
    assert generate(model, inputs, use_cache=False).equal(expected)


@pytest.mark.parametrize("options", [{}, {"prompt_stage": "after"}, {"rope_axes": "s"}])
def test_a_batch_answers_as_its_rows_alone(options):
    model = tiny_model(theta=0.1, **options)
    batch, rows = two_prompts(model.config)
    answers = generate(model, batch)
    for answer, row in zip(answers, rows, strict=True):
        assert answer.equal(generate(model, row)[0])


def test_beams_of_a_batch_are_the_beams_of_its_rows():
    model = tiny_model(theta=0.1)
    batch, rows = two_prompts(model.config)
    answers = generate(model, batch, num_beams=3)
    for answer, row in zip(answers, rows, strict=True):
        assert answer.equal(generate(model, row, num_beams=3)[0])
        assert answer.equal(generate(model, row, num_beams=3, use_cache=False)[0])


def test_a_static_cache_gives_the_same_answer():
    model = tiny_model(theta=0.1)
    batch, _ = two_prompts(model.config)
    assert generate(model, batch, cache_implementation="static").equal(generate(model, batch))


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS)
def test_decoding_compiles_in_one_graph(options):
    model, inputs = tiny_model(theta=0.1, **options), tiny_inputs(tiny_config())
    expected = generate(model, inputs)[0]
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(**inputs, past_key_values=cache).logits
        step = torch.compile(model, fullgraph=True, backend="eager")
        position_ids = model.model.position_ids(inputs["input_ids"] == VIDEO_TOKEN_ID, None)[..., -1:]
        answer = []
        for rank in range(len(expected)):
            logits[..., VIDEO_TOKEN_ID] = -torch.inf
            answer.append(int(logits[0, -1].argmax()))
            position_ids = position_ids + 1
            mask = torch.ones(1, length + rank + 1, dtype=torch.long)
            token = torch.tensor([[answer[-1]]])
            logits = step(
                input_ids=token, position_ids=position_ids, attention_mask=mask, past_key_values=cache
            ).logits.clone()
    assert answer == expected.tolist()


def turns(config):
    """Make a conversation of two turns, each with a video: the first, the second, and both together."""
    first, second = tiny_inputs(config, seed=1), tiny_inputs(config, num_dynimgs=1, before=4, seed=2)
    return first, second


@pytest.mark.parametrize("options", VARIANTS)
def test_generation_continues_from_a_cache(options):
    """With the whole conversation and with the new ids alone: what the model would say without a cache."""
    model = tiny_model(theta=0.1, **options)
    first, second = turns(model.config)
    output = model.generate(**first, **GREEDY, return_dict_in_generate=True)
    whole = torch.cat([output.sequences, second["input_ids"]], 1)
    mask = torch.ones_like(whole)
    pixels = torch.cat([first["pixel_values_videos"], second["pixel_values_videos"]])
    expected = without_cache(model, {"input_ids": whole, "attention_mask": mask, "pixel_values_videos": pixels})

    new_pixels = second["pixel_values_videos"]
    for kept in (0, output.past_key_values.get_seq_length()):
        cache = copy.deepcopy(output.past_key_values)
        # What is in the cache is cut off the ids, so that only the new video is to be given.
        given = {"input_ids": whole[:, kept:], "attention_mask": mask, "pixel_values_videos": new_pixels}
        assert model.generate(**given, past_key_values=cache, **GREEDY)[:, -6:].equal(expected)


def test_forward_continues_from_a_cache_with_new_ids_alone():
    model = tiny_model(theta=0.1)
    batch, _ = two_prompts(model.config)
    expected = model(**batch).logits[:, -3:]
    head = {"input_ids": batch["input_ids"][:, :-3], "attention_mask": batch["attention_mask"][:, :-3]}
    cache = model(**{**batch, **head}, use_cache=True).past_key_values
    tail = {
        "input_ids": batch["input_ids"][:, -3:],
        "past_key_values": cache,
        "attention_mask": batch["attention_mask"],
    }
    torch.testing.assert_close(model(**tail).logits, expected, rtol=1e-3, atol=1e-4)


def test_conversations_do_not_mix_in_threads():
    """The model keeps no positions: two conversations at once end as they would one after the other."""
    model = tiny_model(theta=0.1)
    prompts = [tiny_inputs(model.config, num_dynimgs=n, before=3 * n, seed=n) for n in (1, 2, 3)]
    expected = [generate(model, prompt, max_new_tokens=12) for prompt in prompts]
    results = [None] * len(prompts)

    def run(rank):
        results[rank] = generate(model, prompts[rank], max_new_tokens=12)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result.equal(answer) for result, answer in zip(results, expected, strict=True))


def test_a_cache_of_another_batch_is_refused():
    model = tiny_model()
    batch, rows = two_prompts(model.config)
    cache = model(**batch, use_cache=True).past_key_values
    with pytest.raises(InputError, match=r"batch of 2, now there are 1"):
        model(input_ids=rows[0]["input_ids"][:, -1:], past_key_values=cache)


def test_a_cache_that_was_filled_by_text_alone_counts_on():
    model = tiny_model(theta=0.1)
    ids = torch.randint(6, 100, (1, 9))
    cache = DynamicCache(config=model.config.text_config)
    model.model.language_model(ids[:, :5], past_key_values=cache, use_cache=True)
    logits = model(input_ids=ids[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(input_ids=ids).logits[:, 5:], rtol=1e-3, atol=1e-4)


def test_a_prompt_may_end_in_a_video():
    model, inputs = tiny_model(theta=0.1), tiny_inputs(tiny_config(), after=0)
    assert generate(model, inputs).equal(without_cache(model, inputs))


def test_text_alone_is_answered():
    model = tiny_model(theta=0.1)
    inputs = {"input_ids": torch.randint(6, 100, (1, 7)), "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    assert generate(model, inputs).equal(without_cache(model, inputs))


def test_the_video_token_is_never_generated():
    model, inputs = tiny_model(), tiny_inputs(tiny_config())
    with torch.no_grad():
        model.lm_head.weight[VIDEO_TOKEN_ID] = 100 * model.model(**inputs).last_hidden_state[0, -1]
    assert model(**inputs).logits[0, -1].argmax() == VIDEO_TOKEN_ID
    assert VIDEO_TOKEN_ID not in generate(model, inputs)


def test_prompt_lookup_does_not_copy_visual_tokens():
    """The text after the video repeats the token before it, so that the lookup finds placeholders to go on with."""
    model, inputs = tiny_model(theta=0.1), tiny_inputs(tiny_config())
    inputs["input_ids"][0, -1] = inputs["input_ids"][0, 2]
    expected = generate(model, inputs)
    assert generate(model, inputs, prompt_lookup_num_tokens=3, max_matching_ngram_size=1).equal(expected)


def test_pixels_are_encoded_once(monkeypatch):
    model, inputs = tiny_model(), tiny_inputs(tiny_config())
    calls = []
    encode = model.model._encode
    monkeypatch.setattr(model.model, "_encode", lambda pixels: calls.append(1) or encode(pixels))
    generate(model, inputs, num_beams=2)
    assert len(calls) == 1


@pytest.mark.parametrize("size", [3, 10])
def test_chunked_prefill_gives_the_same_answer_or_none(size):
    """Before 5.23 transformers loses features between chunks; that must not end in an answer."""
    model, inputs = tiny_model(theta=0.1), tiny_inputs(tiny_config())
    if tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23):
        assert generate(model, inputs, prefill_chunk_size=size).equal(generate(model, inputs))
    else:
        with pytest.raises(InputError, match="visual tokens"):
            generate(model, inputs, prefill_chunk_size=size)


def filled(model, inputs, **options):
    """Fill a cache of the caller with a prompt."""
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(**inputs, past_key_values=cache, **options)
    return cache


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("kept", [3, 9, 20])
def test_a_cropped_cache_goes_on_where_it_was_cut(options, kept):
    """Before the first DynImg, within it, and within the second: the rest, videos included, comes again."""
    model = tiny_model(theta=0.1, **options)
    inputs = tiny_inputs(model.config, num_dynimgs=2, before=3)
    expected = model(**inputs).logits[:, -2:]
    cache = filled(model, inputs)
    cache.crop(kept - inputs["input_ids"].shape[1])
    videos = model.get_video_features(inputs["pixel_values_videos"]).pooler_output
    num_in = int((inputs["input_ids"][:, :kept] == VIDEO_TOKEN_ID).sum())
    left = type("Features", (), {"pooler_output": [torch.cat(list(videos))[num_in:]]})()
    rest = {"input_ids": inputs["input_ids"][:, kept:], "mm_encoder_outputs": {"video": left}}
    torch.testing.assert_close(model(**rest, past_key_values=cache).logits[:, -2:], expected, rtol=1e-3, atol=1e-4)


def test_another_video_after_a_prefix_stands_where_it_would_alone():
    model = tiny_model(theta=0.1)
    first, second = turns(model.config)
    prefix = {"input_ids": first["input_ids"][:, :3]}
    cache = filled(model, first)
    cache.crop(3 - first["input_ids"].shape[1])
    alone = filled(model, prefix)
    given = {"input_ids": second["input_ids"], "pixel_values_videos": second["pixel_values_videos"]}
    found, expected = (model(**given, past_key_values=each).logits for each in (cache, alone))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_cache_that_is_not_handed_back_is_noted_too():
    model = tiny_model(theta=0.1)
    inputs = tiny_inputs(model.config)
    ids = inputs["input_ids"]
    expected = model(**inputs).logits[:, -2:]
    head = {**inputs, "input_ids": ids[:, :-2], "attention_mask": inputs["attention_mask"][:, :-2]}
    cache = filled(model, head, use_cache=False)
    found = model(input_ids=ids[:, -2:], past_key_values=cache).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axes", ["s", "hwts"])
def test_text_in_continuous_batches_is_answered_as_alone(axes):
    model = tiny_model(theta=0.1, rope_axes=axes)
    prompts = [[7, 8, 9, 10], [11, 12, 13, 14, 15, 16]]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    config = transformers.GenerationConfig(**options)
    found = model.generate_batch(prompts, generation_config=config, progress_bar=False)
    for prompt, result in zip(prompts, found.values(), strict=True):
        alone = generate(model, {"input_ids": torch.tensor([prompt])}, max_new_tokens=5)
        assert result.generated_tokens == alone[0].tolist()

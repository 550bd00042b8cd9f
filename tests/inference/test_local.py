"""Many requests at once: the answers of one by one, whatever the batch, and a reason for each that has none."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynimg_vl import InputError
from dynimg_vl.answering import Answerer
from dynimg_vl.inference import ahead
from dynimg_vl.inference.local import LocalEngine
from dynimg_vl.inference.requests import Request


@pytest.fixture
def engine(model, processor):
    return LocalEngine(model, processor, name="tiny")


def answers(engine, requests):
    """Give the predictions by id, without what may differ."""
    found = list(engine.predict(requests))
    assert len(found) == len(requests)
    return {prediction.id: replace(prediction, seconds={}, scores=()) for prediction in found}


def messages_of(request, dynimgs):
    content = [{"type": "text", "text": request.question}]
    if dynimgs is not None:
        content.insert(0, {"type": "video", "video": dynimgs})
    turns = [{"role": "user", "content": content}]
    if request.system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": request.system}]})
    return turns


def inputs_alone(engine, request, beginning=""):
    """Make the inputs of one request with transformers' own chat, and its beginning of an answer after them."""
    options = {} if request.clip is None else {"clip": request.clip}
    dynimgs = None if request.video is None else engine.processor.video_processor.load(request.video, **options)
    inputs = engine.processor.apply_chat_template(
        messages_of(request, dynimgs),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    more = torch.tensor([engine.processor.tokenizer(beginning, add_special_tokens=False)["input_ids"]]).long()
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return dict(inputs), length


def text_alone(engine, request):
    inputs, _ = inputs_alone(engine, request, request.prefix)
    with torch.inference_mode():
        tokens = engine.model.generate(**inputs, max_new_tokens=request.max_new_tokens, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return engine.processor.tokenizer.decode(new, skip_special_tokens=True).strip(), len(new)


def scores_alone(engine, request):
    """Score each choice by a pass of its own over everything: the reference, in ten lines."""
    found = []
    for choice in request.choices:
        inputs, length = inputs_alone(engine, request, request.prefix + choice)
        with torch.inference_mode():
            chances = engine.model(**inputs, use_cache=False).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0]
        found.append(sum(float(chances[place - 1, ids[place]]) for place in range(length, len(ids))))
    return found


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_batch_answers_as_each_request_alone(model, processor, requests, batch_size):
    engine = LocalEngine(model, processor, batch_size=batch_size)
    for request, prediction in zip(requests, engine.predict(requests), strict=True):
        assert prediction.id == request.id
        assert prediction.error is None
        if request.choices:
            expected = scores_alone(engine, request)
            assert prediction.scores == pytest.approx(expected, abs=1e-3)
            assert prediction.choice == max(range(len(expected)), key=expected.__getitem__)
            assert prediction.text == request.choices[prediction.choice]
        else:
            assert (prediction.text, prediction.usage["new"]) == text_alone(engine, request)


def test_it_answers_as_a_conversation_does(engine, model, processor, requests):
    answerer = Answerer(model, processor)
    for request in requests[:4]:
        reply = answerer.start(answerer.look(request.video)).ask(
            request.question, max_new_tokens=request.max_new_tokens
        )
        (prediction,) = engine.predict([request])
        usage = {"visual": reply.num_visual_tokens, "new": reply.num_new_tokens}
        assert prediction.text == reply.text
        assert {name: prediction.usage[name] for name in usage} == usage


def test_the_answers_tell_requests_apart(engine, requests):
    """Guard the tests above: a model that says the same to all would pass them."""
    texts = [prediction.text for prediction in engine.predict(requests) if not prediction.scores]
    assert len(set(texts)) > len(texts) // 2
    assert all(texts)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_and_batch_size_change_nothing(model, processor, requests, expected, data):
    order = data.draw(st.permutations(requests))
    batch_size = data.draw(st.integers(1, len(requests) + 1))
    assert answers(LocalEngine(model, processor, batch_size=batch_size), order) == expected


@pytest.fixture(scope="module")
def expected(model, processor, requests):
    return answers(LocalEngine(model, processor, batch_size=1), requests)


def test_padding_does_not_count_where_earlier_tokens_do(model, processor, requests, monkeypatch):
    """With a penalty on repetition, the padding of a batch would be punished as if it had been said."""
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    generated = [replace(request, max_new_tokens=24) for request in requests if not request.choices]
    alone = answers(LocalEngine(model, processor, batch_size=1), generated)
    # The token for padding is one that a short prompt does not hold and its answer does.
    said = next(letter for letter in alone["text"].text if letter.isalnum() and letter not in "say something userait")
    padding = processor.tokenizer.convert_tokens_to_ids(said)
    monkeypatch.setattr(type(processor.tokenizer), "pad_token_id", padding, raising=False)
    assert answers(LocalEngine(model, processor, batch_size=7), generated) == alone


def test_the_likeliest_token_is_the_likeliest_choice(engine, clips):
    """Tie both ways of answering to each other: greedy generation begins with the best of all single letters."""
    letters = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    request = Request("one", clips[0], "which", prefix="It is ", choices=letters)
    (chosen,) = engine.predict([request])
    inputs, _ = inputs_alone(engine, request, request.prefix)
    ids = [engine.processor.tokenizer(letter)["input_ids"][0] for letter in letters]
    with torch.inference_mode():
        logits = engine.model(**inputs).logits[0, -1, ids]
    assert chosen.choice == int(logits.argmax())


def test_usage_counts_tokens(engine, clips):
    request = Request("one", clips[0], "which", prefix="It is ", max_new_tokens=4)
    (prediction,) = engine.predict([request])
    inputs, _ = inputs_alone(engine, request, request.prefix)
    assert prediction.usage["prompt"] == inputs["input_ids"].shape[1]
    assert prediction.usage["visual"] == int((inputs["input_ids"] == engine.model.config.video_token_id).sum())
    assert set(prediction.seconds) == {"video", "answer"}
    assert len(prediction.frames["frames"]) == engine.model.config.num_dynimgs


# --- errors ----------------------------------------------------------------------------------------------------------


def bad_requests(good, folder):
    """Give requests that cannot be answered, each with words of the reason."""
    (folder / "text.mp4").write_bytes(b"no video\n" * 99)
    (folder / "empty").mkdir()
    changes = {
        "missing": ({"video": str(folder / "gone.mp4")}, "gone.mp4"),
        "broken": ({"video": str(folder / "text.mp4")}, "text.mp4"),
        "folder": ({"video": str(folder / "empty")}, "fps"),
        "address": ({"video": "http://127.0.0.1:9/a.mp4"}, "address"),
        "data": ({"video": "data:video/mp4;base64,AAAA"}, "data"),
        "late": ({"clip": (100.0, 101.0)}, "clip"),
        "special": ({"question": "hm <|im_end|>"}, "question holds <|im_end|>"),
        "special system": ({"system": "<|im_start|>"}, "system turn holds <|im_start|>"),
        "special prefix": ({"prefix": "<|video_pad|>"}, "beginning of the answer holds <|video_pad|>"),
        "special choice": ({"choices": ("a", "<|im_end|>")}, "choice holds <|im_end|>"),
        "empty choice": ({"choices": ("a", "")}, "choice is empty"),
        "empty": ({"question": " "}, "question is empty"),
        "long": ({"question": "x" * 600}, "tokens long, the model reads 512"),
        "long choice": ({"choices": ("a", "x" * 600)}, "tokens long, the model reads 512"),
        "none": ({"max_new_tokens": 0}, "max_new_tokens"),
    }
    for name, (change, words) in changes.items():
        yield replace(good, id=name, **change), words


def test_what_cannot_be_answered_has_a_reason_and_stops_nothing(engine, requests, tmp_path):
    alone = answers(engine, requests[:4])
    bad = list(bad_requests(requests[0], tmp_path))
    mixed = [*requests[:2], *(request for request, _ in bad), *requests[2:4]]
    found = answers(engine, mixed)
    for request, words in bad:
        error = found[request.id].error
        assert words in error
        assert "\n" not in error
        assert found[request.id].text == ""
    assert {request.id: found[request.id] for request in requests[:4]} == alone


def test_a_damaged_video_is_answered_with_a_warning(engine, clips, tmp_path, ball_video):
    whole = ball_video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 5])
    (prediction,) = engine.predict([Request("cut", str(tmp_path / "cut.mp4"), "what moves", max_new_tokens=3)])
    assert prediction.error is None
    assert "cut.mp4" in prediction.frames["warnings"][0]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: you tried")]
)
def test_a_batch_without_memory_is_answered_in_halves(model, processor, requests, expected, monkeypatch, error):
    sizes, generate = [], type(model).generate

    def fits_two(self, input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise error
        return generate(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model), "generate", fits_two)
    generated = [request for request in requests if not request.choices]
    engine = LocalEngine(model, processor, batch_size=7)
    found = answers(engine, generated)
    assert found == {request.id: expected[request.id] for request in generated}
    assert max(sizes) == 7
    assert engine.batch_size <= 2


def test_a_request_that_is_too_large_alone_has_a_reason(engine, model, requests, monkeypatch):
    def never(self, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(type(model), "generate", never)
    assert {prediction.error.split(";")[0] for prediction in engine.predict(requests[:3])} == {"out of memory"}


def test_other_errors_of_the_model_are_not_hidden(engine, model, requests, monkeypatch):
    def broken(self, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(model), "generate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        list(engine.predict(requests[:3]))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}, {"no_such": 1}])
def test_options_that_do_not_fit_are_refused(model, processor, options):
    with pytest.raises(InputError):
        LocalEngine(model, processor, **options)


# --- identity --------------------------------------------------------------------------------------------------------


def test_it_says_what_answers(engine, model, processor):
    facts = engine.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts == LocalEngine(model, processor, name="tiny", batch_size=3, num_workers=2).describe()
    assert facts["selection"]["num_dynimgs"] == 2
    assert {"torch", "transformers", "av", "dynimg_vl"} == set(facts["versions"])
    other = LocalEngine(model, processor, name="tiny", num_dynimgs=1).describe()
    assert {key for key in facts if facts[key] != other[key]} == {"selection"}


def test_every_weight_and_setting_counts(model, processor):
    def digests():
        facts = LocalEngine(model, processor).describe()
        return facts["weights_sha256"], facts["settings_sha256"]

    seen = [digests()]
    for name in ("model.language_model.rotary_emb.axis_theta", "model.vision_tower.embeddings.patch_embedding.bias"):
        weight = model.get_parameter(name)
        with torch.no_grad():
            weight.reshape(-1)[0] += 1e-3
        seen.append(digests())
        with torch.no_grad():
            weight.reshape(-1)[0] -= 1e-3
    assert len({weights for weights, _ in seen}) == len(seen)
    assert len({settings for _, settings in seen}) == 1
    template = processor.chat_template
    processor.chat_template = template + " "
    try:
        assert digests()[1] != seen[0][1]
    finally:
        processor.chat_template = template


# --- videos ahead ----------------------------------------------------------------------------------------------------


def test_a_video_that_is_asked_in_a_row_is_decoded_once(engine, clips, monkeypatch):
    decoded = []
    load = ahead.load_dynimgs
    monkeypatch.setattr(ahead, "load_dynimgs", lambda video, **rest: decoded.append(video) or load(video, **rest))
    asked = [Request(f"{clip}{number}", clip, "what", max_new_tokens=1) for clip in clips for number in range(5)]
    list(engine.predict(asked))
    assert decoded == clips
    decoded.clear()
    list(engine.predict([asked[0], replace(asked[0], id="other", clip=(0.0, 0.5))]))
    assert len(decoded) == 2


def test_nothing_is_decoded_long_before_its_turn(clips):
    taken = []

    def asked():
        for number in range(50):
            taken.append(number)
            yield Request(str(number), clips[number % 3], "what")

    with ahead.LookAhead({}, num_workers=1, ahead=4) as looks:
        for done, _ in enumerate(looks.look(asked())):
            assert len(taken) <= done + 6
            if done == 5:
                break


@pytest.mark.slow
def test_worker_processes_see_what_this_one_does(model, processor, requests, expected, tmp_path):
    engine = LocalEngine(model, processor, batch_size=3, num_workers=2)
    bad = [request for request, _ in bad_requests(requests[0], tmp_path)]
    found = answers(engine, [*requests, *bad])
    assert {request.id: found[request.id] for request in requests} == expected
    assert all(found[request.id].error for request in bad)


class Deadly:
    """End the process that unpickles it: stands for a file that crashes the decoder."""

    def __reduce__(self):
        import os

        return os._exit, (1,)

    def __str__(self):
        return "deadly.mp4"


@pytest.mark.slow
def test_a_video_that_ends_its_worker_ends_nothing_else(model, processor, clips):
    deadly = Deadly()
    asked = [
        Request(str(number), deadly if number in (2, 3, 7) else clips[number % 3], "what moves", max_new_tokens=3)
        for number in range(12)
    ]
    found = answers(LocalEngine(model, processor, batch_size=2, num_workers=2), asked)
    lost = {name for name, prediction in found.items() if prediction.error}
    assert lost == {"2", "3", "7"}
    assert "deadly.mp4: the process that decodes it dies" in found["2"].error


def test_workers_do_not_import_torch():
    import subprocess
    import sys

    code = "import sys, dynimg_vl.inference.ahead; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_folders_of_frames_are_read(engine, tmp_path):
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (32, 24), (20 * number, 90, 200 - 10 * number)).save(tmp_path / f"{number:03d}.png")
    request = Request("folder", str(tmp_path), "what moves", fps=4.0, max_new_tokens=3)
    (prediction,) = engine.predict([request])
    assert prediction.error is None
    times = [group["keyframe"]["seconds"] for group in prediction.frames["frames"]]
    assert all(later > earlier for earlier, later in pairwise(times))

"""A tiny model, some clips and requests of every kind about them."""

from dataclasses import replace

import pytest

import tiny
from dynimg_vl.inference.requests import Request
from synthetic import write_video


@pytest.fixture(scope="session")
def model():
    """Give a tiny random model that looks at its video; three new tokens would tell clips apart."""
    return tiny.tiny_model(theta=0.1, text={"vocab_size": len(tiny.tiny_tokenizer())})


@pytest.fixture(scope="session")
def processor(model):
    return tiny.tiny_processor(model.config)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Write three short clips that differ."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        str(write_video(folder / f"clip{number}.mp4", 24 + 9 * number, size=(48 + 16 * number, 96)))
        for number in range(3)
    ]


@pytest.fixture(scope="session")
def requests(clips):
    """Give requests of every kind that differ in length, with no two alike."""
    plain = [
        Request(f"plain{number}", clips[number % 3], "what moves " + "x" * (7 * number), max_new_tokens=3 + number)
        for number in range(4)
    ]
    first = plain[0]
    return [
        *plain,
        replace(first, id="prefix", prefix="Best option: ("),
        replace(first, id="system", system="be brief"),
        replace(first, id="clip", clip=(0.2, 0.8)),
        Request("text", None, "say something", max_new_tokens=6),
        replace(first, id="choices", choices=("up", "down and away", "left"), prefix="It goes "),
        Request("text choices", None, "up or down", choices=("up", "down")),
    ]

"""Questions and answers: true of the clip, and balanced given what the keyframe shows."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from dynimg_vl.motion.questions import (
    FAMILIES,
    QUESTIONS,
    AskRates,
    ClipFacts,
    clip_facts,
    corpus,
    describe,
    possible_answers,
)
from dynimg_vl.motion.world import sample_scenes
from dynimg_vl.training.motion.tokenizer import SPECIAL_TOKENS, build_tokenizer


@pytest.fixture(scope="module")
def rates():
    return AskRates(num_samples=20_000)


@pytest.fixture(scope="module")
def asked(rates):
    scenes = sample_scenes(12_000, 8, torch.Generator().manual_seed(4))
    rng = np.random.default_rng(0)
    return [(facts, exchange) for facts in clip_facts(scenes) for exchange in rates.ask(facts, 9, rng)]


def facts_of(camera="still", colours=(), directions=(), is_flat=False, is_clear=True):
    return ClipFacts(camera, tuple(colours), tuple(directions), is_flat, is_clear)


@pytest.mark.parametrize(
    ("facts", "family", "answer"),
    [
        (facts_of(colours=["red"], directions=["left"]), "direction", "It moves left."),
        (facts_of(colours=["red"], directions=["still"]), "direction", "It stays still."),
        (facts_of(colours=["red", "blue"], directions=["still", "up"]), "colour", "The blue one."),
        (facts_of(colours=["red", "blue"], directions=["still", "up"]), "direction_of", "It moves up."),
        (facts_of(colours=["red", "blue"], directions=["still", "up"]), "count", "Two objects."),
        (facts_of(), "anything", "No."),
        (facts_of("in"), "anything", "Yes."),
        (facts_of("down"), "camera", "It tilts down."),
        (facts_of("change"), "camera", "The scene changes."),
    ],
)
def test_answers_are_true(facts, family, answer):
    assert possible_answers(facts)[family][1] == answer


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (facts_of(), "Nothing moves."),
        (facts_of("left"), "The camera pans left."),
        (facts_of("out", ["red"], ["still"]), "The camera zooms out."),
        (facts_of(colours=["green"], directions=["up"]), "The green object moves up."),
        (facts_of(colours=[""], directions=["up"]), "An object moves up."),
        (facts_of(colours=["red", "blue", "green"], directions=["up", "still", "left"]), "Two objects move."),
    ],
)
def test_descriptions_say_what_moves(facts, sentence):
    assert describe(facts) == sentence


def test_what_cannot_be_told_is_not_asked():
    assert "direction" not in possible_answers(facts_of(colours=["red", "blue"], directions=["up", "left"]))
    assert "direction" not in possible_answers(facts_of("left", ["red"], ["still"]))
    assert "camera" not in possible_answers(facts_of(is_flat=True))
    assert "count" not in possible_answers(facts_of(colours=[""], directions=["still"], is_clear=False))


def test_every_family_is_asked(asked):
    assert {exchange.family for _, exchange in asked} == set(FAMILIES)


@pytest.mark.parametrize("family", ["direction", "camera", "anything", "direction_of"])
def test_answers_are_equally_frequent_given_what_the_keyframe_shows(asked, family):
    groups = defaultdict(Counter)
    for facts, exchange in asked:
        if exchange.family == family:
            groups[facts.keyframe_group][exchange.answer] += 1
    for counts in groups.values():
        total = counts.total()
        if total > 400:
            for count in counts.values():
                assert abs(count / total - 1 / len(counts)) < 0.08


def test_the_tokenizer_knows_every_sentence_and_any_other_text():
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= 768
    for text in [*corpus(), "Où est le chat ? 猫"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1
    assert len(tokenizer("Which way does the object move?")["input_ids"]) == 7


def test_wordings_are_different():
    everything = [text for texts in QUESTIONS.values() for text in texts]
    assert len(everything) == len(set(everything))

"""Questions: balanced given what the keyframe shows, fair choices, and words that the tokenizer knows."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from dynimg_vl.motion.questions import (
    _BINDING,
    _SEEN,
    CHOICES,
    FAMILIES,
    _verb,
    as_choice,
    ask_rates,
    clip_facts,
    corpus,
    possible_answers,
)
from dynimg_vl.motion.wordings import BEST_OPTION, NOUNS, QUESTIONS, short_form
from dynimg_vl.motion.world import sample_scenes
from dynimg_vl.training.motion.tokenizer import SPECIAL_TOKENS, build_tokenizer


@pytest.fixture(scope="module")
def rates():
    return ask_rates()


@pytest.fixture(scope="module")
def clips():
    return clip_facts(sample_scenes(10_000, 8, torch.Generator().manual_seed(4)))


@pytest.fixture(scope="module")
def asked(rates, clips):
    rng = np.random.default_rng(0)
    return [(facts, exchange) for facts in clips for exchange in rates.ask(facts, 99, rng)]


@pytest.fixture(scope="module")
def choices(rates, clips):
    rng = np.random.default_rng(1)
    everything = (
        (facts, each) for facts in clips[:4000] for each in rates.ask(facts, 99, rng, vary=True, choice_share=1.0)
    )
    return [(facts, each) for facts, each in everything if each.choices]


def test_every_family_is_asked_and_answered_truly(asked):
    assert {exchange.family for _, exchange in asked} == set(FAMILIES)
    for facts, exchange in asked[:5000]:
        assert possible_answers(facts)[exchange.family][1] == exchange.answer
        assert "{" not in exchange.question


def test_no_family_drowns_the_others(rates, clips):
    rng = np.random.default_rng(2)
    few = [rates.ask(facts, 4, rng) for facts in clips[:6000]]
    assert max(map(len, few)) == 4
    assert all(len({each.family for each in clip}) == len(clip) for clip in few)
    counts = Counter(each.family for clip in few for each in clip)
    assert counts.most_common(1)[0][1] < 0.2 * counts.total()
    assert set(counts) == set(FAMILIES)


@pytest.mark.parametrize("family", [each for each in FAMILIES if each not in (*_SEEN, *_BINDING, "unknown", "foreign")])
def test_answers_are_equally_frequent_given_what_the_keyframe_shows(asked, family):
    groups = defaultdict(Counter)
    for facts, exchange in asked:
        if exchange.family == family:
            groups[facts.keyframe_group][_verb(family, exchange.answer)] += 1
    checked = 0
    for counts in groups.values():
        total = counts.total()
        if total < 100:
            continue
        checked += 1
        # Five standard errors, of the draw and of the rates, which are counted on 40 000 clips.
        share = 1 / len(counts)
        allowed = 5 * (share * (1 - share) / total) ** 0.5 + 0.15 * share
        assert all(abs(count / total - share) < allowed for count in counts.values()), counts
    assert checked


@pytest.mark.parametrize("family", _BINDING)
def test_what_the_keyframe_shows_is_answered_equally_often(asked, family):
    counts = Counter(exchange.answer for _, exchange in asked if exchange.family == family)
    share = 1 / len(counts)
    allowed = 5 * (share * (1 - share) / counts.total()) ** 0.5
    assert all(abs(count / counts.total() - share) < allowed for count in counts.values()), counts


def test_the_right_option_is_right_and_the_options_differ(choices):
    for facts, each in choices:
        letter = re.fullmatch(r"(?:Best option: ?)?\(([A-E])\)", each.answer)[1]
        chosen = each.choices["ABCDE".index(letter)]
        truth = possible_answers(facts)[each.family][1]
        assert chosen in (truth, short_form(truth), short_form(truth)[:1].upper() + short_form(truth)[1:])
        assert 2 <= len(each.choices) <= 5
        assert len({option.lower() for option in each.choices}) == len(each.choices)
        assert all(f"({'ABCDE'[rank]}) {option}" in each.question for rank, option in enumerate(each.choices))
        assert each.answer.startswith(("(", *BEST_OPTION))


def test_letters_are_equally_frequent(choices):
    letters = defaultdict(Counter)
    for _, each in choices:
        letters[len(each.choices)][each.answer[-2]] += 1
    for number, counts in letters.items():
        share, total = 1 / number, counts.total()
        assert set(counts) == set("ABCDE"[:number])
        assert all(abs(count / total - share) < 5 * (share * (1 - share) / total) ** 0.5 for count in counts.values())


# The first two offer what happens seldom as well: a few points more than chance can be had from that.
@pytest.mark.parametrize(
    ("family", "slack"), [("direction", 0.1), ("direction_of", 0.2), *[(f, 0.08) for f in CHOICES][2:]]
)
def test_the_options_alone_do_not_tell_the_answer(choices, family, slack):
    rows = [
        (tuple(short_form(option).lower() for option in each.choices), "ABCDE".index(each.answer[-2]))
        for _, each in choices
        if each.family == family
    ]
    half = len(rows) // 2
    offered, right = Counter(), Counter()
    for options, place in rows[:half]:
        offered.update(options)
        right[options[place]] += 1
    guesses = [
        max(range(len(o)), key=lambda rank, o=o: right[o[rank]] / max(1, offered[o[rank]])) for o, _ in rows[half:]
    ]
    found = np.mean([guess == place for guess, (_, place) in zip(guesses, rows[half:], strict=True)])
    chance = np.mean([1 / len(options) for options, _ in rows[half:]])
    assert found < chance + slack + 4 * (0.25 / (len(rows) - half)) ** 0.5


def test_short_forms_differ_within_each_family():
    for answers in CHOICES.values():
        assert len(set(answers)) == len(answers) == len({short_form(answer).lower() for answer in answers})


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        ("It moves left.", "left"),
        ("It moves back and forth.", "back and forth"),
        ("It tilts up.", "up"),
        ("The scene changes.", "The scene changes"),
        ("The red one.", "red"),
        ("A bar.", "bar"),
        ("There are no objects.", "none"),
        ("None of them.", "None"),
        ("Three objects.", "Three"),
        ("No.", "No"),
        ("First left, then up.", "First left, then up"),
    ],
)
def test_short_forms(answer, short):
    assert short_form(answer) == short


def test_a_choice_offers_what_is_in_the_picture_first(clips):
    rng = np.random.default_rng(3)
    rates = ask_rates()
    seen = 0
    for facts in clips:
        colours = {each.colour for each in facts.objects if each.colour}
        for each in rates.ask(facts, 99, rng, ("colour",)):
            offered = {short_form(option).lower() for option in as_choice(each, facts, rng).choices}
            assert len(offered & colours) == min(len(offered), len(colours))
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("family", ["direction", "camera", "first"])
def test_the_share_of_clips_that_are_asked_about_a_family_is_known(clips, family):
    rng, rates = np.random.default_rng(4), ask_rates()
    share = rates.share((family,))
    asked = sum(bool(rates.ask(facts, 1, rng, (family,))) for facts in clips)
    assert abs(asked / len(clips) - share) < 4 * (share * (1 - share) / len(clips)) ** 0.5
    assert rates.share((family, "unknown")) >= share


def words_of(text):
    return set(re.findall(r"[\w']+|[^\w\s]", text))


def test_the_corpus_has_every_word_that_can_occur(asked, choices):
    known = set().union(*map(words_of, corpus()))
    for _, each in asked:
        if each.family != "foreign":
            assert words_of(each.question) <= known, each.question
        assert words_of(each.answer) <= known, each.answer
    lowered = {word.lower() for word in known}
    for _, each in choices:
        assert {word.lower() for word in words_of(each.question)} <= lowered | set(NOUNS), each.question
        assert words_of(each.answer) <= known


def test_the_tokenizer_knows_every_sentence_and_any_other_text():
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= 768
    for text in [*corpus(), *QUESTIONS["foreign"], "Où est le chat ? 猫"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1
    assert len(tokenizer("Which way does the object move?")["input_ids"]) == 7


def test_the_longest_question_is_short_for_the_tokenizer(choices):
    tokenizer = build_tokenizer()
    longest = sorted((each.question for _, each in choices), key=len)[-20:]
    assert max(len(tokenizer(text)["input_ids"]) for text in longest) <= 120


def test_wordings_are_different():
    everything = [text for texts in QUESTIONS.values() for text in texts]
    assert len(everything) == len(set(everything))

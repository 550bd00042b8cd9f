"""What is true of a clip, on clips written down by hand."""

import pytest

from dynimg_vl.motion.facts import ClipFacts, ObjectFacts, clip_facts, describe, possible_answers
from dynimg_vl.motion.wordings import FOREIGN, UNKNOWN
from dynimg_vl.motion.world import sample_scenes
from dynimg_vl.training.motion.heldout import backward, halted


def thing(colour="red", kind="move", direction="still", shape="bar", turn="still", speed=""):
    return ObjectFacts(colour, shape, kind, direction, turn, speed)


def clip(*objects, camera="still", is_flat=False, is_clear=True):
    return ClipFacts(camera, objects, is_flat, is_clear)


RESTING = thing("blue", "still", shape="square")
LEFT = thing("red", "move", "left", speed="fast")
STORY = (thing("green", "start", "up"), thing("white", "stop", "down"))

CASES = [
    # clip, family: word and answer, or None where nothing may be asked
    (clip(LEFT), {"direction": "It moves left.", "speed": "Fast.", "start_stop": "Neither.", "colour": "The red one."}),
    (clip(LEFT), {"count": "One object.", "moving_count": None, "anything": "Yes.", "camera": "It stays still."}),
    (clip(LEFT), {"shape": "A bar.", "moving_shape": "A bar.", "appear": "No.", "first": None, "meet": None}),
    (clip(LEFT), {"camera_moves": "No.", "moves": "Yes.", "direction_of": "It moves left.", "unknown": UNKNOWN}),
    (clip(thing(direction="up", speed="slow")), {"speed": "Slowly.", "direction": "It moves up.", "foreign": FOREIGN}),
    (clip(thing(direction="up")), {"speed": None}),
    (clip(RESTING), {"direction": "It stays still.", "anything": "No.", "moves": "No.", "speed": None, "colour": None}),
    (clip(thing(kind="swing")), {"direction": "It moves back and forth.", "moves": "Yes.", "start_stop": None}),
    (clip(thing(kind="circle")), {"direction": "It moves in a circle.", "anything": "Yes.", "speed": None}),
    (clip(thing(kind="start", direction="down")), {"direction": "It moves down.", "start_stop": "It starts."}),
    (clip(thing(kind="stop", direction="right")), {"direction": "It moves right.", "start_stop": "It stops."}),
    (clip(thing(kind="turn", direction="left", turn="up")), {"direction": "First left, then up.", "moves": "Yes."}),
    (clip(thing(kind="appear")), {"appear": "An object appears.", "direction": None, "count": None, "moves": None}),
    (clip(thing(kind="appear")), {"direction_of": "It appears.", "anything": None, "shape": "A bar."}),
    (clip(thing(kind="disappear")), {"appear": "An object disappears.", "moving_count": None, "count": None}),
    (clip(thing(kind="appear"), thing("blue", "disappear")), {"appear": None}),
    (clip(thing(kind="appear"), thing("blue", "move", "up")), {"anything": "Yes.", "direction": None, "colour": None}),
    (clip(LEFT, RESTING), {"direction": "It moves left.", "colour": "The red one.", "count": "Two objects."}),
    (clip(LEFT, RESTING), {"direction_of": "It stays still.", "moves": "No.", "shape_of": "A square.", "shape": None}),
    (clip(LEFT, RESTING), {"moving_count": "One of them.", "moving_shape": "A bar."}),
    (clip(LEFT, thing("blue", "move", "up")), {"direction": None, "colour": None, "moving_count": "Two of them."}),
    (clip(LEFT, thing("blue", "swing"), RESTING), {"count": "Three objects.", "moving_count": "Two of them."}),
    (clip(RESTING, RESTING), {"moving_count": "None of them.", "direction": "It stays still.", "anything": "No."}),
    (clip(thing(kind="meet"), thing("blue", "meet")), {"meet": "They meet.", "direction_of": None, "moves": "Yes."}),
    (clip(thing(kind="part"), thing("blue", "part")), {"meet": "They move apart.", "moving_count": "Two of them."}),
    (clip(*STORY), {"first": "The white one.", "direction": None, "start_stop": None}),
    (clip(*STORY, RESTING), {"first": "The white one.", "direction_of": "It stays still."}),
    (clip(STORY[0], thing("", "stop", "down")), {"first": None}),
    (clip(thing("", "move", "left")), {"direction": "It moves left.", "colour": None, "direction_of": None}),
    (clip(thing("", "move", "left"), is_clear=False), {"count": None, "shape": None, "moving_shape": None}),
    (clip(LEFT, is_flat=True), {"camera": None, "camera_moves": None, "direction": "It moves left."}),
    (clip(), {"anything": "No.", "count": "There are no objects.", "direction": None, "appear": None}),
    (clip(camera="in"), {"camera": "It zooms in.", "camera_moves": "Yes.", "anything": "Yes.", "count": None}),
    (clip(RESTING, camera="left"), {"camera": "It pans left.", "direction": None, "moves": None, "shape": None}),
    (clip(camera="down"), {"camera": "It tilts down."}),
    (clip(camera="change"), {"camera": "The scene changes.", "camera_moves": None, "anything": None}),
]


@pytest.mark.parametrize(("facts", "wanted"), CASES)
def test_answers_are_true_and_what_cannot_be_told_is_not_asked(facts, wanted):
    answers = possible_answers(facts)
    assert {family: answers.get(family, ("", None))[1] for family in wanted} == wanted


def test_the_object_asked_about_does_not_depend_on_what_moves():
    still, moves = thing("blue", "still"), thing("blue", "move", "up")
    for other in (thing("red", "still"), thing("red", "move", "left")):
        for first in (still, moves):
            assert possible_answers(clip(other, first))["moves"][0] == "blue"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (clip(), "Nothing moves."),
        (clip(RESTING), "Nothing moves."),
        (clip(camera="left"), "The camera pans left."),
        (clip(RESTING, camera="out"), "The camera zooms out."),
        (clip(camera="change"), "The scene changes."),
        (clip(LEFT), "The red object moves left."),
        (clip(thing("", "move", "up")), "An object moves up."),
        (clip(thing(kind="turn", direction="left", turn="up")), "The red object moves left, then up."),
        (clip(thing(kind="disappear")), "The red object disappears."),
        (clip(thing(kind="circle")), "The red object moves in a circle."),
        (clip(LEFT, RESTING, thing("green", "move", "left")), "Two objects move."),
        (clip(thing(kind="meet"), thing("blue", "meet")), "Two objects meet."),
        (clip(thing(kind="part"), thing("blue", "part")), "Two objects move apart."),
        (clip(thing(kind="appear"), thing("blue", "disappear")), "Several things happen."),
        (clip(*STORY), "The white object moves, then the green object."),
    ],
)
def test_descriptions_say_what_happens(facts, sentence):
    assert describe(facts) == sentence


def test_the_label_of_a_motion_names_its_speed():
    assert [each.label for each in (LEFT, RESTING, thing(direction="up"), thing(kind="start", direction="up"))] == [
        "fast left",
        "still",
        "up",
        "start",
    ]


@pytest.mark.parametrize(
    ("facts", "family", "answer"),
    [
        (clip(LEFT), "direction", "It moves right."),
        (clip(thing(kind="turn", direction="left", turn="up")), "direction", "First down, then right."),
        (clip(thing(kind="start", direction="up")), "start_stop", "It stops."),
        (clip(thing(kind="appear")), "appear", "An object disappears."),
        (clip(thing(kind="meet"), thing("blue", "meet")), "meet", "They move apart."),
        (clip(*STORY), "first", "The green one."),
        (clip(camera="in"), "camera", "It zooms out."),
        (clip(camera="up"), "camera", "It tilts down."),
        (clip(camera="change"), "camera", "The scene changes."),
        (clip(thing(kind="circle")), "direction", "It moves in a circle."),
        (clip(LEFT, RESTING), "count", "Two objects."),
    ],
)
def test_played_backward_it_is_the_opposite(facts, family, answer):
    assert possible_answers(backward(facts))[family][1] == answer
    assert backward(backward(facts)) == facts


def test_of_a_clip_that_stands_still_nothing_moves():
    stands = halted(clip(LEFT, thing("blue", "appear"), camera="in"))
    answers = possible_answers(stands)
    assert answers["anything"][1] == answers["camera_moves"][1] == "No."
    assert answers["moving_count"][1] == "None of them."
    assert answers["appear"][1] == "No."
    assert describe(stands) == "Nothing moves."


def test_facts_are_read_off_the_scene():
    import torch

    scenes = sample_scenes(500, 4, torch.Generator().manual_seed(3))
    for row, facts in enumerate(clip_facts(scenes)):
        assert len(facts.objects) == int(scenes.num_objects[row])
        assert len(facts.moving) == int(scenes.moves[row].sum())
        assert facts.is_flat == bool(scenes.flat[row])
        for place, each in enumerate(facts.objects):
            assert (each.colour == "") == bool(scenes.textured[row, place])
            assert each.moves or each.direction == "still"

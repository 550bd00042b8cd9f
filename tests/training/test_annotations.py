"""Annotation files: what is read from them, and what is said about broken ones."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl import InputError
from dynimg_vl.training.data.annotations import Clip, Sample, read_annotations
from dynimg_vl.training.data.sample_table import SampleTable

# One entry per family of VideoChat2-IT, with the fields that it uses (captions: i; classes: i and q; others: q).
CAPTION = {"video": "a.mp4", "QA": [{"i": "Describe the clip. ", "q": "", "a": "A cat."}]}
CLASS = {"video": "k400/b.mp4", "QA": [{"i": "Pick one.", "q": "Options:\n(A) run\n(B) sit", "a": "Answer: (A) run"}]}
CHAT = {
    "video": "c.mp4",
    "start": 2,
    "end": 7.5,
    "QA": [{"i": "", "q": "Who?", "a": "A man."}, {"i": "", "q": "Where?", "a": "\nIn a park."}],
}
FRAME_QA = {"video": "d.gif", "QA": [{"q": "What colour?", "a": "red"}]}


def read(tmp_path, value, name="train.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return list(read_annotations(path, "src"))


def turns(sample):
    """List (role, texts and <video>) of a sample."""
    return [
        (message["role"], *(part.get("text", "<video>") for part in message["content"])) for message in sample.messages
    ]


def test_the_public_format_of_every_family(tmp_path):
    caption, of_class, conversation, frame_qa = read(tmp_path, [CAPTION, CLASS, CHAT, FRAME_QA])
    assert turns(caption) == [("user", "<video>", "Describe the clip."), ("assistant", "A cat.")]
    assert turns(of_class) == [
        ("user", "<video>", "Pick one.\nOptions:\n(A) run\n(B) sit"),
        ("assistant", "Answer: (A) run"),
    ]
    assert turns(conversation) == [
        ("user", "<video>", "Who?"),
        ("assistant", "A man."),
        ("user", "Where?"),
        ("assistant", "In a park."),
    ]
    assert turns(frame_qa) == [("user", "<video>", "What colour?"), ("assistant", "red")]
    assert caption.clips == (Clip("a.mp4"),)
    assert caption.clips[0].bounds is None
    assert conversation.clips == (Clip("c.mp4", 2.0, 7.5),)
    assert (conversation.source, conversation.entry, conversation.place) == ("src", 3, "src entry 3")


def test_an_instruction_that_repeats_is_said_once(tmp_path):
    exchanges = [{"i": "Be brief.", "q": f"Q{n}", "a": "x"} for n in range(3)]
    (sample,) = read(tmp_path, [{"video": "a.mp4", "QA": exchanges}])
    assert [turn[-1] for turn in turns(sample)[::2]] == ["Be brief.\nQ0", "Q1", "Q2"]


def test_chat_jsonl(tmp_path):
    lines = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "path": "a.mp4", "start": 1, "end": 2},
                        {"type": "video", "video": "b.mp4"},
                        {"type": "text", "text": "Same?"},
                    ],
                },
                {"role": "assistant", "content": "No."},
            ]
        },
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\u2028there"}]},
    ]
    text = json.dumps(lines[0]) + "\n\n" + json.dumps(lines[1], ensure_ascii=False) + "\n"
    both, alone = read(tmp_path, text, "mine.jsonl")
    assert both.clips == (Clip("a.mp4", 1.0, 2.0), Clip("b.mp4"))
    assert turns(both)[1] == ("user", "<video>", "<video>", "Same?")
    assert alone.clips == ()
    assert alone.entry == 3  # its line
    assert alone.text_of("assistant") == "Hello\u2028there"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{not json", r"train.json is not JSON: .* \(line 1, column 2\)"),
        ({"video": "a.mp4"}, "must hold a list of entries, not an object"),
        ([CAPTION, 3], "entry 2 is no object but a number"),
        ([{"QA": CAPTION["QA"]}], "entry 1 lacks a video"),
        ([CAPTION, {"video": "a.mp4"}], "entry 2 lacks QA"),
        ([{"video": "a.mp4", "QA": []}], "entry 1 lacks QA"),
        ([{"video": "a.mp4", "QA": [{"q": "x", "a": "y"}, {"a": "y"}]}], "entry 1, QA 2 lacks a question"),
        ([{"video": "a.mp4", "QA": [{"q": "x"}]}], "entry 1, QA 1: a is missing"),
        ([{"video": "a.mp4", "QA": [{"q": "x", "a": None}]}], "entry 1, QA 1: a is null, not text"),
        ([{**CAPTION, "start": "soon"}], 'entry 1: start must be a number of seconds, got "soon"'),
        ([{**CAPTION, "start": 10**400}], "entry 1: start must be a number of seconds, got 1000"),
        ([{**CAPTION, "start": 4, "end": 4}], "the clip from 4 s to 4 s is empty"),
        ([{**CAPTION, "video": "http://x/a.mp4"}], "is an address; download the video"),
    ],
)
def test_broken_lists_are_told_in_one_line(tmp_path, value, message):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, value)
    assert "train.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"entry 2 is not JSON"),
        ({"text": "x"}, "entry 2 lacks messages"),
        ({"messages": [{"content": "x"}]}, "entry 2, message 1 lacks a role"),
        ({"messages": [{"role": "user"}]}, "entry 2, message 1 lacks content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "part 1 must have the type text or video"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "lacks a video"),
        ({"messages": [{"role": "user", "content": "x"}]}, "end with assistant; got user"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": [{"type": "video", "path": "a.mp4"}]},
                ]
            },
            "only user messages may show a video",
        ),
    ],
)
def test_broken_chats_are_told_in_one_line(tmp_path, line, message):
    good = json.dumps({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, good + "\n" + (line if isinstance(line, str) else json.dumps(line)), "mine.jsonl")
    assert re.match(r".*mine\.jsonl: entry 2", str(error.value))
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match=r"cannot read annotations .*none\.json: No such file"):
        list(read_annotations(tmp_path / "none.json", "src"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe[")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        list(read_annotations(tmp_path / "binary.json", "src"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["video", "QA", "i", "q", "a", "messages", "role", "content", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(value=st.lists(json_values, max_size=3), name=st.sampled_from(["x.json", "x.jsonl"]))
def test_any_json_is_read_or_refused(tmp_path_factory, value, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_text(json.dumps(value) if name == "x.json" else "\n".join(map(json.dumps, value)))
    try:
        samples, problem = list(read_annotations(path, "s")), ""
    except InputError as error:
        samples, problem = [], str(error)
    assert "\n" not in problem
    assert all(isinstance(sample, Sample) and sample.messages[-1]["role"] == "assistant" for sample in samples)


texts = st.text(max_size=20)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda said, path, start, entry: Sample(
                ({"role": "user", "content": [{"type": "video"}, {"type": "text", "text": said}]},),
                (Clip(path, start),),
                "src",
                entry,
            ),
            texts,
            texts,
            st.none() | st.floats(0, 1e6),
            st.integers(1, 10**9),
        ),
        max_size=5,
    )
)
def test_a_table_gives_back_what_was_put_in(samples):
    table = SampleTable(samples)
    assert len(table) == len(samples)
    assert list(table) == samples
    with pytest.raises(IndexError):
        table[len(samples)]

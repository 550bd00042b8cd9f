"""JSON and YAML from outside: a value or a ValueError, and what is written can be read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynimg_vl.text_formats import check_types, finite, json_bytes, load_json, load_yaml


@given(st.text(st.characters(codec=None, categories=None), max_size=20), st.sampled_from([None, 2]))
def test_any_text_is_written_as_json_that_is_read_back(text, indent):
    assert load_json(json_bytes({"name": text}, indent)) == {"name": text}


def test_halves_of_surrogate_pairs_are_escaped():
    assert json_bytes("d\udcff") == b'"d\\udcff"'
    assert json_bytes("ä") == '"ä"'.encode()


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "1" * 5000, "nul", b"\xff"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError) as caught:
        load_json(text)
    assert not isinstance(caught.value, RecursionError)


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99", "a: !!int ''", "a: !!bool x", "a: " + "[" * 5000, "a: [", "!!python/object:os.system x",
        "\x00",
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_a_value_error_of_one_line(text):
    with pytest.raises(ValueError) as caught:
        load_yaml(text)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_numbers_that_json_has_not_are_none():
    value = finite({"a": [float("nan"), 1.5, (float("inf"), "x")], "b": {"c": float("-inf")}})
    assert value == {"a": [None, 1.5, [None, "x"]], "b": {"c": None}}
    json.dumps(value, allow_nan=False)


@dataclass
class Thing:
    name: str
    count: int | None = None
    share: float = 0.0
    pair: tuple[float, float] | None = None
    many: tuple[str, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    rest: Any = None


@pytest.mark.parametrize(
    "given",
    [
        {}, {"count": 3}, {"share": 1}, {"pair": (1, 2.5)}, {"many": ("x",)}, {"table": {"a": 1}}, {"kind": "b"},
        {"rest": [1]},
    ],
)  # fmt: skip
def test_fields_that_are_what_their_annotations_say(given):
    check_types(Thing("x", **given))


@pytest.mark.parametrize(
    "given", [
        {"name": None}, {"count": True}, {"count": 1.5}, {"share": "1"}, {"pair": (1,)}, {"pair": [1, 2]},
        {"pair": (1, None)}, {"many": (1,)}, {"many": "x"}, {"table": {"a": "b"}}, {"table": None}, {"table": [1]},
        {"kind": "c"},
    ]
)  # fmt: skip
def test_other_fields_are_named(given):
    with pytest.raises(TypeError, match=next(iter(given))):
        check_types(Thing(**{"name": "x", **given}))

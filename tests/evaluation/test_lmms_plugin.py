"""The plug-in for lmms-eval: against the harness where it is installed, else against a stand-in for its interface.

The harness wants an older PyAV and torchvision, so that the environment of this project cannot have it whole. The
stand-in holds what is documented: a chat request's arguments are (context, doc_to_messages, gen_kwargs, doc_id, task,
split), answers are texts or `GenerationResult`, plug-ins are entry points that give a `ModelManifest`.
"""

import importlib.util
import sys
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from dynimg_vl.errors import InputError
from dynimg_vl.loading import load_dynimgs
from tiny import save_tiny

pytest.importorskip("accelerate")

HAS_HARNESS = importlib.util.find_spec("lmms_eval") is not None
MODULES = ("dynimg_vl.evaluation.lmms_model", "dynimg_vl.evaluation.lmms_plugin")


def stand_in():
    """Build modules with the harness's names."""

    class Lmms:
        is_simple = True

        def __init__(self):
            self._rank, self._world_size, self.task_dict = 0, 1, {}
            self.cache_hook = types.SimpleNamespace(add_partial=lambda *_: None)

        def clean(self):
            pass

    @dataclass
    class TokenCounts:
        input_tokens: int | None = None
        output_tokens: int | None = None

    @dataclass
    class GenerationResult:
        text: str
        token_counts: Any = None

    @dataclass(frozen=True)
    class ModelManifest:
        model_id: str
        simple_class_path: str | None = None
        chat_class_path: str | None = None
        aliases: tuple = ()

    class ChatMessages:
        def __init__(self, messages):
            def content(part):
                given = {"start_time": None, "end_time": None, "text": None, "url": None, **part}
                return types.SimpleNamespace(**given)

            self.messages = [
                types.SimpleNamespace(role=turn["role"], content=[content(part) for part in turn["content"]])
                for turn in messages
            ]

    logger = types.SimpleNamespace(error=lambda *_: None)
    return {
        "lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {},
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "lmms_eval.protocol": {"ChatMessages": ChatMessages},
        "loguru": {"logger": logger},
    }  # fmt: skip


@pytest.fixture
def plugin(monkeypatch):
    """Give the class that the harness would load."""
    if not HAS_HARNESS:
        for name, names in stand_in().items():
            module = types.ModuleType(name)
            vars(module).update(names)
            monkeypatch.setitem(sys.modules, name, module)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    entry = EntryPoint("dynimg_vl", f"{MODULES[1]}:manifest", "lmms_eval.models")
    module, _, name = entry.load()().chat_class_path.rpartition(".")
    yield getattr(importlib.import_module(module), name)
    for name in MODULES:
        sys.modules.pop(name, None)


def request(messages, doc_id=0, **gen_kwargs):
    arguments = ("context", lambda doc: messages[doc], gen_kwargs, doc_id, "mvbench", "train")
    return types.SimpleNamespace(args=arguments, task_name="mvbench", doc_id=doc_id)


def user(*content, role="user"):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": role, "content": parts}


def video(path, **clip):
    return {"type": "video", "url": str(path), **clip}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    save_tiny(path)
    return path


def test_answers_are_those_of_the_engine_in_the_order_of_the_requests(plugin, folder, ball_video):
    from dynimg_vl.answering import Answerer

    model = plugin(pretrained=str(folder), batch_size=2, device="cpu")
    assert not model.is_simple
    assert (model._rank, model._world_size) == (0, 1)
    documents = [
        [user(video(ball_video), "Where to?")],
        [user("No video here")],
        [user(video(ball_video, start_time=0.5, end_time=1.0), "And there?")],
        [user(video("nowhere.mp4"), "What?")],
        [user(video(ball_video), "Where to?")],
    ]
    model.task_dict = {"mvbench": {"train": list(range(len(documents)))}}
    requests = [request(documents, n, max_new_tokens=4, temperature=0, do_sample=False) for n in range(len(documents))]
    results = model.generate_until([*requests, requests[0]])  # padded, as for several processes
    answerer = Answerer.from_pretrained(folder, device="cpu")
    expected = answerer.start(answerer.look(ball_video)).ask("Where to?", max_new_tokens=4)
    clipped = answerer.start(answerer.look(ball_video, clip=(0.5, 1.0))).ask("And there?", max_new_tokens=4)
    assert results[0].text == results[4].text == results[5].text == expected.text
    assert results[2].text == clipped.text
    assert results[3].text == ""
    assert results[0].token_counts.output_tokens == expected.num_new_tokens
    assert results[1].text
    model.clean()


def test_messages_become_requests(plugin):
    request_of = sys.modules[MODULES[0]].request_of
    made = request_of(
        "7", [user("Be brief.", role="system"), user(video("a.mp4"), "One", "two?")], {"max_new_tokens": 16}
    )
    assert (made.id, made.video, made.question, made.system) == ("7", "a.mp4", "One\ntwo?", "Be brief.")
    assert (made.max_new_tokens, made.clip) == (16, None)


@pytest.mark.parametrize(("start", "end"), [(0.5, None), (None, 1.0), (0.5, 1.0)])
def test_a_stretch_of_a_video_may_have_one_end_or_two(plugin, ball_video, start, end):
    request_of = sys.modules[MODULES[0]].request_of
    clip = request_of("0", [user(video("a.mp4", start_time=start, end_time=end), "?")], {}).clip
    assert clip == (start, end)
    assert len(load_dynimgs(ball_video, num_dynimgs=1, clip=clip).pixels) == 1


@pytest.mark.parametrize(
    ("messages", "gen_kwargs", "message"),
    [
        ([user("a"), user("b", role="assistant"), user("c")], {}, "several turns"),
        ([user({"type": "image", "url": "x.jpg"}, "?")], {}, "one video file"),
        ([user(video("a.mp4"), video("b.mp4"), "?")], {}, "one video file"),
        ([user(video("http://host/a.mp4"), "?")], {}, "no file"),
        ([user(video("a.mp4"), "?")], {"do_sample": True}, "greedily"),
        ([user(video("a.mp4"), "?")], {"temperature": 0.7}, "greedily"),
    ],
)
def test_what_it_does_not_do_is_refused_and_not_answered_with_nothing(plugin, messages, gen_kwargs, message):
    with pytest.raises(InputError, match=message):
        sys.modules[MODULES[0]].request_of("0", messages, gen_kwargs)


def test_stop_words_cut(plugin):
    module = sys.modules[MODULES[0]]
    assert module._cut("(B) left\n\nQ: more", module._stops({"until": ["\n\n", "Q:"]})) == "(B) left"
    assert module._cut("(B) left", module._stops({"until": "."})) == "(B) left"


def test_a_batch_size_that_is_no_number_is_refused(plugin, folder):
    with pytest.raises(InputError, match="batch_size"):
        plugin(pretrained=str(folder), batch_size="auto")


@pytest.mark.skipif(not HAS_HARNESS, reason="lmms-eval is not installed here")
def test_the_real_registry_finds_the_model(plugin, monkeypatch, folder):
    from lmms_eval.models import registry_v2

    entry = EntryPoint("dynimg_vl", f"{MODULES[1]}:manifest", "lmms_eval.models")
    monkeypatch.setattr(registry_v2.ModelRegistryV2, "_select_entry_points", lambda self, group: [entry])
    registry = registry_v2.ModelRegistryV2()
    registry.load_entrypoint_manifests(overwrite=True)
    for name in ("dynimg_vl", "dynimg"):
        found = registry.get_model_class(name)
        assert found.__name__ == "DynImgVL"
    # What the harness itself does with --model_args and its own options.
    made = found.create_from_arg_string(
        f"pretrained={folder},num_dynimgs=2", {"batch_size": "1", "max_batch_size": None, "device": "cpu"}
    )
    assert made._engine._loading["num_dynimgs"] == 2

"""Benchmarks in their official layouts: what is read, which videos are found, what is refused."""

import json

import pytest

import miniature
from dynimg_vl.errors import InputError
from dynimg_vl.evaluation.predict import requests_of
from dynimg_vl.evaluation.tasks import TASKS, find_task
from dynimg_vl.evaluation.tasks.mvbench import FILES as MVBENCH_FILES
from dynimg_vl.evaluation.tasks.tvbench import FILES as TVBENCH_FILES
from dynimg_vl.evaluation.videos import VideoFinder
from dynimg_vl.video import index_video


def test_official_counts():
    counts = {name: task.official_count for name, task in TASKS.items()}
    assert counts == {
        "msvd": 13_157, "msrvtt": 72_821, "tgif": 13_691, "activitynet": 8_000, "videochatgpt": 1_996 + 499 + 499,
        "mvbench": 20 * 200, "tvbench": 2_525, "motionbench": 4_018,
        "motionworld": 4 * 100,
    }  # fmt: skip
    assert len(TASKS["mvbench"].counts) == 20
    assert len(TASKS["tvbench"].counts) == 10
    assert all(task.downloads and task.metric and task.title for task in TASKS.values())


def test_msvd(tmp_path):
    items = find_task("msvd").load(miniature.msvd(tmp_path))
    assert [item.id for item in items] == [f"msvd/test/{number}" for number in range(5)]  # question ids repeat
    assert [item.answer for item in items] == ["ball", "red", "man", "left", "2"]
    assert [item.video and item.video.rpartition("/")[2] for item in items] == [
        "vid1.avi", "vid1.avi", "vid2.AVI", "vid3.mp4", None,
    ]  # fmt: skip
    assert items[0].extra == {"question_id": "7"}
    # The folder itself, its parent, and a folder by the task's own name give the same.
    assert find_task("msvd").load(tmp_path / "MSVD_Zero_Shot_QA") == items
    (tmp_path / "MSVD_Zero_Shot_QA").rename(tmp_path / "msvd")
    assert find_task("msvd").load(tmp_path) == items


def test_activitynet_names_get_their_prefix(tmp_path):
    rows = [("one", "q", "a", "1"), ("v_two", "q", "a", "2"), ("three", "q", "a", "3")]
    videos = miniature.open_ended(tmp_path, "ActivityNet", "all_test", rows)
    for name in ("v_one.mkv", "v_two.webm", "three.mp4"):
        miniature.clip(videos / name)
    items = find_task("activitynet").load(tmp_path)
    assert [item.video for item in items] == ["all_test/v_one.mkv", "all_test/v_two.webm", "all_test/three.mp4"]
    assert [item.video_name for item in items] == ["one", "v_two", "three"]


@pytest.mark.parametrize(("folder", "suffix"), [("gifs", ".gif"), ("videos_mp4", ".mp4")])
def test_tgif_as_gif_or_re_encoded(tmp_path, folder, suffix):
    videos = miniature.open_ended(tmp_path, "TGIF_QA", folder, [("tumblr_a1", "q", "a", "1")] * 2)
    path = miniature.clip(videos / f"tumblr_a1{suffix}")
    items = find_task("tgif").load(tmp_path)
    assert {item.video for item in items} == {f"{folder}/tumblr_a1{suffix}"}
    assert index_video(path).num_frames == 24


def test_msrvtt_below_videos_all(tmp_path):
    videos = miniature.open_ended(tmp_path, "msrvtt", "videos/all", [("video7010", "q", "a", "1")])
    miniature.clip(videos / "video7010.mp4")
    assert find_task("msrvtt").load(tmp_path)[0].video == "videos/all/video7010.mp4"


def test_video_chatgpt_keeps_each_question_with_its_answer(tmp_path):
    task = find_task("videochatgpt")
    loaded = task.read(miniature.video_chatgpt(tmp_path))
    items = loaded.items
    assert [item.subtask for item in items] == ["generic"] * 3 + ["temporal"] + ["consistency"] * 2
    assert [item.video is None for item in items] == [False, False, True, False, False, False]
    assert items[-1].questions == ("first 1", "second 1")
    requests = {request.id: request.question for request in requests_of(task, loaded, task.prompt)}
    assert len(requests) == 2 + 1 + 4
    assert requests["videochatgpt/consistency/1/q1"] == "first 1"
    assert requests["videochatgpt/consistency/1/q2"] == "second 1"
    assert set(loaded.hashes) == {f"Benchmarking_QA/{name}_qa.json" for name in task.counts}


def test_mvbench(tmp_path):
    task = find_task("mvbench")
    loaded = task.read(miniature.choices_of(tmp_path / "MVBench", MVBENCH_FILES.subtasks))
    by_id = {item.id: item for item in loaded.items}
    assert len(by_id) == 60
    assert sum(item.video is None for item in loaded.items) == 20
    bounded = {item.subtask for item in loaded.items if item.clip is not None}
    assert bounded == {
        "action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning",
    }  # fmt: skip
    assert by_id["mvbench/action_sequence/0"].clip == (0.1, 0.8)
    first = by_id["mvbench/action_sequence/1"]
    assert (first.choices, first.answer, first.answer_index) == (("left", "right", "up"), "right", 1)
    # The reference looks at pictures round(start * 3) to round(end * 3), the first of which is 00001.jpg.
    episodic = by_id["mvbench/episodic_reasoning/0"]
    assert episodic.fps == 3.0
    index = index_video(loaded.root / episodic.video, fps=episodic.fps)
    start, end = episodic.clip
    inside = [number + 1 for number, time in enumerate(index.pts_seconds) if start <= time <= end]
    assert inside == list(range(round(1.0 * 3), round(3.0 * 3) + 1))


@pytest.mark.parametrize(
    ("name", "folder"), [("object_interaction", "star/Charades_v1_480"), ("moving_count", "clevrer/video_validation")]
)
def test_mvbench_videos_of_the_later_archive(tmp_path, name, folder):
    """data0613.zip holds videos that the first archives lack; unpacked in place, its folders lie one deeper."""
    miniature.choices_of(tmp_path, MVBENCH_FILES.subtasks)
    miniature.clip(tmp_path / "video" / "data0613" / folder / f"{name}2.mp4")
    videos = {item.id: item.video for item in find_task("mvbench").load(tmp_path)}
    assert videos[f"mvbench/{name}/2"] == f"video/data0613/{folder}/{name}2.mp4"
    assert videos[f"mvbench/{name}/1"] == f"video/{folder}/{name}1.mp4"


def test_the_prompt_of_options_is_that_of_the_reference(tmp_path):
    task = find_task("mvbench")
    loaded = task.read(miniature.choices_of(tmp_path, MVBENCH_FILES.subtasks))
    requests = {mode: requests_of(task, loaded, task.prompt, mode)[1] for mode in ("generate", "likelihood")}
    asked = requests["generate"]
    assert asked.question == (
        "Question: action_sequence 1?\nOptions:\n(A) left\n(B) right\n(C) up\nOnly give the best option."
    )
    assert asked.prefix == "Best option: ("
    assert asked.choices == ()
    assert requests["likelihood"].choices == ("A)", "B)", "C)")
    assert requests["likelihood"].prefix == asked.prefix


def test_tvbench_in_folders_of_zips(tmp_path):
    miniature.choices_of(tmp_path, TVBENCH_FILES.subtasks, num=1)
    for place in ("action_count/action_count0.mp4", "object_count/object_count/object_count0.MP4"):
        miniature.clip(tmp_path / "video" / place)
    videos = {item.subtask: item.video for item in find_task("tvbench").load(tmp_path)}
    assert videos["action_count"] == "video/action_count/action_count0.mp4"
    assert videos["object_count"] == "video/object_count/object_count/object_count0.MP4"
    assert videos["moving_direction"] is None


def motion_rows():
    letters = "How often?\nA. once\nB. twice,\nthen never\nC. thrice"
    return [
        {"key": "k1", "video_path": "a.mp4", "question_type": "Repetition Count", "qa": [
            {"uid": "u1", "question": letters, "answer": "B"}, {"uid": "u2", "question": letters, "answer": "NA"}]},
        {"key": "k2", "video_path": "b.mp4", "question_type": "Camera Motion", "qa": [
            {"uid": 3, "question": "Which way?\n(A) left\n(B) right", "answer": "A", "start": 0, "end": 1}]},
    ]  # fmt: skip


def test_motionbench_leaves_hidden_answers_out(tmp_path):
    miniature.dump(tmp_path / "MotionBench" / "video_info.meta.jsonl", motion_rows())
    miniature.clip(tmp_path / "MotionBench" / "self-collected" / "b.mp4")
    first, second = find_task("motionbench").load(tmp_path)
    assert (first.id, first.question, first.answer) == (
        "motionbench/repetition_count/0.0",
        "How often?",
        "twice, then never",
    )
    assert first.choices == ("once", "twice, then never", "thrice")
    assert (first.video, second.video) == (None, "self-collected/b.mp4")
    assert (second.subtask, second.answer_index, second.clip) == ("camera_motion", 0, None)
    assert second.extra == {"key": "k2", "uid": 3}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x", "v/x.mp4"), ("x.avi", "v/x.mp4"), ("x.mp4", "v/x.mp4"), ("y", "v/y.WebM"), ("Y", None), ("x.txt", None),
        ("a.b", "v/a.b.mkv"), ("both", "v/both.mp4"), ("both.avi", "v/both.avi"), ("folder", "v/folder"),
        ("sub/z", "v/sub/z.gif"),
    ],
)  # fmt: skip
def test_which_file_a_name_means(tmp_path, name, found):
    for path in ("x.mp4", "y.WebM", "a.b.mkv", "both.avi", "both.mp4", "text.txt", "sub/z.gif", "folder/1.jpg"):
        (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / path).touch()
    assert VideoFinder(tmp_path).find(["none", "v"], [name], "here") == found


@pytest.mark.parametrize(
    "name",
    [
        "../x", "../../etc/passwd", "a/../../x", "/etc/passwd", "\\x", "..\\x", "C:\\x", "~/x", "http://h/x", "a\0b",
        "x" * 2000,
    ],
)  # fmt: skip
def test_names_do_not_lead_out_of_the_folder(tmp_path, name):
    miniature.clip(tmp_path / "x.mp4")
    miniature.open_ended(tmp_path, "msvd", "videos", [("ok", "q", "a", "1"), (name, "q", "a", "2")])
    with pytest.raises(InputError, match=r"test_q\.json: entry 2: the video name .* leads out") as caught:
        find_task("msvd").load(tmp_path)
    assert len(str(caught.value)) < 400


GOOD = {"video_name": "v", "question": "q", "question_id": "1"}


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ("no json", r"test_q\.json is not JSON: .*\(line 1, column 1\)"),
        ("[" * 100_000, r"test_q\.json is not"),
        ("{}", r"must hold a list of entries, not an object"),
        ("[]", r"holds no entries"),
        ('["a"]', r"entry 1 is no object but a text"),
        (json.dumps([{"Q": "a", "A": "b", "video_name": "v"}]),
         r"entry 1 lacks question \(it has Q, A, video_name\); is this the file for msvd"),
        (json.dumps([GOOD | {"question": 3.5}, GOOD | {"question": None}]),
         r"entry 2: question must be a text, not null"),
        (json.dumps([GOOD | {"question": "  "}]), r"entry 1: question is empty"),
        (json.dumps([GOOD | {"video_name": ["v"]}]), r"entry 1: video_name must be a text, not a list"),
        (json.dumps([GOOD, GOOD]), r"do not belong together: 2 questions, 1 answers"),
        (json.dumps([GOOD | {"question_id": "2"}]), r"do not belong together: entry 1 has question_id 2 and 1"),
        ("\udcff", r"is not UTF-8 text \(byte 0\)"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be(tmp_path, questions, said):
    (tmp_path / "test_q.json").write_bytes(questions.encode("utf-8", "surrogateescape"))
    miniature.dump(tmp_path / "test_a.json", [{"answer": "a", "question_id": "1"}] * (2 if "entry 2" in said else 1))
    with pytest.raises(InputError, match=said) as caught:
        find_task("msvd").load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": None}, "candidates must be a list of 2 to 26 options"),
        ({"candidates": ["left"]}, "candidates must be a list of 2 to 26 options"),
        ({"candidates": ["left", {}]}, "candidates: candidates must be a text, not an object"),
        ({"answer": "nowhere"}, "the answer 'nowhere' is none of the candidates"),
        ({"start": "soon"}, "start must be a number of seconds, got \"soon\""),
        ({"end": True}, "end must be a number of seconds"),
        ({"end": 10**400}, "end must be a number of seconds"),
        ({"video": "../x.mp4"}, "leads out of the folder"),
    ],
)  # fmt: skip
def test_entries_that_are_not_what_they_should_be(tmp_path, change, said):
    miniature.choices_of(tmp_path, MVBENCH_FILES.subtasks, num=1)
    path = tmp_path / "json" / "action_sequence.json"
    entry = json.loads(path.read_text())[0]
    miniature.dump(path, [entry, {**entry, **change}])
    with pytest.raises(InputError) as caught:
        find_task("mvbench").load(tmp_path)
    assert "action_sequence.json: entry 2" in str(caught.value)
    assert said in str(caught.value)


def test_motionbench_refuses_answers_that_are_no_option(tmp_path):
    rows = motion_rows()
    rows[1]["qa"][0]["answer"] = "C"
    miniature.dump(tmp_path / "video_info.meta.jsonl", rows)
    with pytest.raises(InputError, match="entry 2, qa 1: the answer 'C' is none of the 2 options"):
        find_task("motionbench").load(tmp_path)


def test_a_file_too_large_or_with_too_many_entries(tmp_path, monkeypatch):
    from dynimg_vl.evaluation import reading

    miniature.msvd(tmp_path)
    monkeypatch.setattr(reading, "MAX_ENTRIES", 4)
    with pytest.raises(InputError, match="has 5 entries, over the limit of 4"):
        find_task("msvd").load(tmp_path)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="bytes, over the limit of 10; is it an annotation file"):
        find_task("msvd").load(tmp_path)


def test_a_missing_file_or_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder of data"):
        find_task("msvd").load(tmp_path / "none")
    with pytest.raises(InputError, match=r"msvd: no test_q\.json in"):
        find_task("msvd").load(tmp_path)
    miniature.msvd(tmp_path)
    (tmp_path / "MSVD_Zero_Shot_QA" / "test_a.json").unlink()
    with pytest.raises(InputError, match=r"cannot read .*test_a\.json: No such file"):
        find_task("msvd").load(tmp_path)
    with pytest.raises(InputError, match="unknown task 'mvsd'; known: msvd, msrvtt"):
        find_task("mvsd")

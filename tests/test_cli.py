"""The command line as a user meets it: results on stdout, mistakes as one line on stderr with exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dynimg_vl
from dynimg_vl.cli.app import main


@pytest.fixture
def run(capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def assert_refused(result, *words):
    """Hold the contract of an error: exit code 2, nothing on stdout, one line on stderr with these words."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    for word in words:
        assert str(word) in err


def test_the_policies_offered_are_those_that_exist():
    from dynimg_vl.cli.options import POLICIES
    from dynimg_vl.video.selection import POLICIES as EXISTING

    assert set(POLICIES) == set(EXISTING)


# --- index ---------------------------------------------------------------------------------------------------------


def test_index_prints_what_the_index_holds(run, ball_video):
    code, out, _ = run("index", ball_video, "--json")
    facts, index = json.loads(out), dynimg_vl.FrameIndex.from_file(ball_video)
    assert code == 0
    assert facts["num_frames"] == index.num_frames
    assert facts["iframe_seconds"] == sorted(facts["iframe_seconds"])
    np.testing.assert_allclose(facts["iframe_seconds"], index.iframe_seconds, atol=1e-6)
    assert (facts["width"], facts["height"]) == (index.width, index.height)


def test_index_in_words(run, ball_video):
    code, out, _ = run("index", ball_video)
    assert code == 0
    assert out.startswith(f"{ball_video}: ")
    assert "I-frames at 0.00" in out


def test_index_of_a_folder_of_frames(run, tmp_path):
    for number in range(3):
        Image.new("RGB", (20, 10), (number * 50, 0, 0)).save(tmp_path / f"{number}.png")
    code, out, _ = run("index", tmp_path, "--fps", 2, "--json")
    assert code == 0
    assert json.loads(out)["num_frames"] == 3
    assert_refused(run("index", tmp_path), "fps")


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_draws_a_picture(run, ball_video, tmp_path):
    picture = tmp_path / "dynimgs.png"
    code, out, _ = run("show", ball_video, "-o", picture, "--num-dynimgs", 2, "--num-prompts", 2, "--json")
    assert code == 0
    described = json.loads(out)
    assert len(described["frames"]) == 2
    assert [len(frame["prompt_frames"]) for frame in described["frames"]] == [2, 2]
    with Image.open(picture) as image:
        assert image.width >= 2 * 336


def test_show_of_a_clip_stays_inside_of_it(run, ball_video, tmp_path):
    _, out, _ = run("show", ball_video, "-o", tmp_path / "a.png", "--start", 0.5, "--end", 1.5, "--json")
    frames = json.loads(out)["frames"]
    times = [f["seconds"] for g in frames for f in (g["keyframe"], *g["prompt_frames"])]
    assert min(times) >= 0.5
    assert max(times) <= 1.5


@pytest.mark.parametrize("output", ["no/such/folder/a.png", "a.txt", "a"])
def test_show_refuses_a_place_it_cannot_write(run, ball_video, tmp_path, output):
    assert_refused(run("show", ball_video, "-o", tmp_path / output), output)
    assert list(tmp_path.iterdir()) == []


def test_show_never_overwrites_the_video(run, ball_video, tmp_path):
    video = write(tmp_path / "clip.png", Path(ball_video).read_bytes())
    assert_refused(run("show", video, "-o", video), "is the video itself")
    assert video.read_bytes() == Path(ball_video).read_bytes()


@pytest.mark.parametrize(("output", "width"), [("a.webp", 16384), ("a.jpg", 65501)])
def test_show_refuses_a_picture_too_large_for_its_format(run, ball_video, tmp_path, monkeypatch, output, width):
    monkeypatch.setattr("dynimg_vl.render.render_dynimgs", lambda *_, **__: Image.new("L", (width, 8)))
    assert_refused(run("show", ball_video, "-o", tmp_path / output), f"{width} x 8 pixels", "name a .png")
    assert list(tmp_path.iterdir()) == []


def test_show_leaves_nothing_behind_when_it_fails(run, ball_video, tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert_refused(run("show", ball_video, "-o", tmp_path / "a.png"), "No space left")
    assert list(tmp_path.iterdir()) == []


def test_an_old_picture_survives_a_failure(run, tmp_path):
    old = tmp_path / "a.png"
    old.write_bytes(b"old")
    assert_refused(run("show", tmp_path / "missing.mp4", "-o", old), "missing.mp4")
    assert old.read_bytes() == b"old"


# --- ask and chat --------------------------------------------------------------------------------------------------


def test_ask_answers_from_the_embedded_model(run, ball_video):
    code, out, _ = run("ask", ball_video, "Which way does the object move?")
    assert code == 0
    assert out.strip()


def test_ask_as_json_says_how_the_answer_came_about(run, ball_video):
    code, out, _ = run("ask", ball_video, "Does anything move?", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["model"] == "embedded"
    assert result["num_visual_tokens"] > 0
    assert set(result["seconds"]) == {"model", "video", "answer"}
    assert result["policy"] in ("iframe", "gop_head", "gop12")
    index = dynimg_vl.FrameIndex.from_file(ball_video)
    for group in result["frames"]:
        for frame in (group["keyframe"], *group["prompt_frames"]):
            assert frame["seconds"] == pytest.approx(index.pts_seconds[frame["index"]], abs=1e-6)


def test_several_questions_stand_alone(run, ball_video):
    questions = ["Does anything move?", "Which way does the object move?"]
    _, out, _ = run("ask", ball_video, *questions, "--json")
    together = [result["answer"] for result in json.loads(out)]
    alone = [json.loads(run("ask", ball_video, question, "--json")[1])["answer"] for question in questions]
    assert together == alone


def test_the_python_api_gives_the_same_answer(run, ball_video):
    question = "Which way does the object move?"
    assert run("ask", ball_video, question)[1].strip() == dynimg_vl.answer(ball_video, question)


def test_chat_answers_line_by_line(run, ball_video, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Does anything move?\nWhich way does the object move?\n\nnot read\n"))
    code, out, _ = run("chat", ball_video, "--json")
    turns = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [turn["question"] for turn in turns] == ["Does anything move?", "Which way does the object move?"]
    assert turns[0]["answer"] == run("ask", ball_video, "Does anything move?")[1].strip()


def test_chat_goes_on_after_a_question_that_is_refused(run, ball_video, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("what <|im_end|>\nDoes anything move?\n"))
    code, out, err = run("chat", ball_video)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert err.startswith("error: the question holds <|im_end|>")


def test_an_empty_question_is_refused(run, ball_video):
    assert_refused(run("ask", ball_video, "  "), "question is empty")


# --- init ----------------------------------------------------------------------------------------------------------


def test_init_refuses_to_overwrite_and_unknown_parts(run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert_refused(run("init", "-o", tmp_path), "holds a model already")
    missing = tmp_path / "nothing"
    assert_refused(run("init", "-o", tmp_path / "new", "--vision", missing, "--text", missing), missing)
    assert not (tmp_path / "new").exists()


# --- bad input -----------------------------------------------------------------------------------------------------


def write(path, content):
    path.write_bytes(content)
    return path


def bad_videos(folder, ball):
    """Give (name, path, words of the message) of everything that is no video."""
    (folder / "empty_folder").mkdir()
    whole = Path(ball).read_bytes()
    yield "missing", folder / "missing.mp4", ["missing.mp4"]
    yield "folder", folder / "empty_folder", ["empty_folder"]
    yield "empty", write(folder / "empty.mp4", b""), ["empty.mp4"]
    yield "text", write(folder / "text.mp4", b"this is a text\n" * 50), ["text.mp4"]
    yield "header cut", write(folder / "cut.mp4", whole[:100]), ["cut.mp4"]
    yield "playlist", write(folder / "list.m3u8", f"#EXTM3U\n#EXTINF:1,\n{ball}\n".encode()), ["list.m3u8"]
    script = f"ffconcat version 1.0\nfile '{ball}'\n".encode()
    yield "concat script", write(folder / "script.mp4", script), ["script.mp4"]
    yield "address", "http://127.0.0.1:9/clip.mp4", ["http://127.0.0.1:9/clip.mp4"]


@pytest.mark.parametrize("verb", [["index"], ["show", "-o", "OUT"], ["ask"], ["chat"]], ids=lambda verb: verb[0])
def test_what_is_no_video_is_refused_in_one_line(run, ball_video, tmp_path, verb):
    out = tmp_path / "out.png"
    for name, path, words in bad_videos(tmp_path, ball_video):
        question = ["What moves?"] if verb[0] == "ask" else []
        fps = ["--fps", 5] if name == "folder" else []
        options = [out if part == "OUT" else part for part in verb[1:]]
        assert_refused(run(verb[0], path, *question, *options, *fps), *words)
    assert not out.exists()


@pytest.mark.parametrize("count", [3, 5, -1, 13])
def test_a_number_of_prompts_that_does_not_fit_is_refused(run, ball_video, tmp_path, count):
    words = [f"{count} prompt frames do not fit", "0, 1, 2, 4"]
    assert_refused(run("show", ball_video, "-o", tmp_path / "a.png", "--num-prompts", count), *words)
    assert_refused(run("ask", ball_video, "What moves?", "--num-prompts", count), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "5", "--end", "2"], ["clip"]),
        (["--start", "1000"], ["clip"]),
        (["--num-dynimgs", "0"], ["num_dynimgs"]),
        (["--num-dynimgs", "1000000000"], ["num_dynimgs"]),
        (["--max-pixels", "-1"], ["max_pixels"]),
        (["--max-pixels", "100"], ["max_pixels"]),
        (["--max-frames", "3"], ["max_frames"]),
        (["--policy", "nonsense"], ["nonsense"]),
    ],
)
def test_an_option_that_does_not_fit_is_refused(run, ball_video, tmp_path, options, words):
    assert_refused(run("show", ball_video, "-o", tmp_path / "a.png", *options), *words)
    assert not (tmp_path / "a.png").exists()


def test_a_folder_without_a_model_is_refused(run, ball_video, tmp_path):
    assert_refused(run("ask", ball_video, "What moves?", "--model", tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    assert_refused(run("ask", ball_video, "What moves?", "--model", tmp_path), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert_refused(run("ask", ball_video, "What moves?", "--model", tmp_path), "bert")


@pytest.mark.parametrize("options", [["--device", "nonsense"], ["--device", "cuda:99"], ["--dtype", "int3"]])
def test_a_device_that_is_not_there_is_refused(run, ball_video, options):
    assert_refused(run("ask", ball_video, "What moves?", *options), options[1])


def test_a_video_cut_in_the_middle_still_gives_an_answer_and_a_warning(run, ball_video, tmp_path):
    whole = Path(ball_video).read_bytes()
    broken = write(tmp_path / "broken.mp4", whole[: len(whole) * 3 // 5])
    code, out, err = run("ask", broken, "Does anything move?")
    assert code == 0
    assert out.strip()
    assert err.startswith("warning: ")
    assert "broken.mp4" in err


# --- as a process --------------------------------------------------------------------------------------------------


def test_the_command_is_installed_and_prints_its_version():
    command = [sys.executable, "-m", "dynimg_vl", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == dynimg_vl.__version__


def test_without_a_verb_it_prints_its_help(run):
    code, _, err = run()
    assert code == 2
    assert "Commands:" in err


def test_an_unknown_verb_and_option_are_one_line(run, ball_video):
    assert_refused(run("nonsense"), "nonsense", "--help")
    assert_refused(run("index", ball_video, "--nonsense"), "--nonsense", "--help")


def strict_utf8(*words, **options):
    """Run the command line as in a terminal that takes nothing but UTF-8."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [os.fsencode(word) for word in (sys.executable, "-m", "dynimg_vl", *words)]
    return subprocess.run(command, capture_output=True, env=environment, check=False, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes for a name")
def test_a_name_that_is_not_utf8(ball_video, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(path, "wb") as file:
        file.write(Path(ball_video).read_bytes())
    result = strict_utf8("index", path, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout)["video"] == os.fsdecode(path)
    assert b"caf\\udce9.mp4" in strict_utf8("index", path).stdout


def test_a_line_that_is_not_utf8_is_refused_and_the_talk_goes_on(ball_video):
    result = strict_utf8("chat", ball_video, input=b"what \xff?\nDoes anything move?\n")
    assert result.returncode == 0
    assert result.stdout == b"Yes.\n"
    assert result.stderr.startswith(b"error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback(ball_video):
    command = f"{sys.executable} -m dynimg_vl index {ball_video} --json | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout == "0\n"


@pytest.mark.parametrize("verb", [["chat"], ["ask", "--json"]])
def test_a_closed_input_is_no_traceback(verb, ball_video):
    question = [] if verb == ["chat"] else ["What moves?"]
    command = [sys.executable, "-m", "dynimg_vl", verb[0], str(ball_video), *question, *verb[1:]]
    result = subprocess.run(["bash", "-c", 'exec "$@" <&-', "-", *command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_closed_errors_are_no_reason_to_fail(ball_video):
    command = [sys.executable, "-m", "dynimg_vl", "ask", str(ball_video), "Does anything move?"]
    result = subprocess.run(["bash", "-c", 'exec "$@" 2>&-', "-", *command], stdout=subprocess.PIPE, check=False)
    assert result.returncode == 0
    assert result.stdout


def test_json_answers_before_a_refused_question_are_not_lost(ball_video):
    result = strict_utf8("ask", ball_video, "Does anything move?", "<|im_end|>", "What moves?", "--json")
    assert result.returncode == 2
    answered, failed = json.loads(result.stdout)
    assert answered["answer"] == "Yes."
    assert failed["question"] == "<|im_end|>"
    assert failed["error"] in result.stderr.decode()

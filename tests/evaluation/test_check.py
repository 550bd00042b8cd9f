"""`dynimg-vl eval` and `eval check`: what is there, what is missing, and that every mistake is one line."""

import json
from dataclasses import replace

import pytest

import miniature
from dynimg_vl.cli import evaluate
from dynimg_vl.cli.app import dynimg_vl, main
from dynimg_vl.errors import InputError
from dynimg_vl.evaluation import check, predict, tasks
from dynimg_vl.evaluation.check import check_task
from dynimg_vl.evaluation.tasks.mvbench import FILES
from miniature import FakeEngine
from runs import die


@pytest.fixture
def run(capsys, monkeypatch):
    if "eval" not in dynimg_vl.commands:
        monkeypatch.setitem(dynimg_vl.commands, "eval", evaluate.evaluate)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def fake(monkeypatch):
    """Let the verb run without a model."""
    engine = FakeEngine(lambda request: "(A)")
    monkeypatch.setattr(evaluate, "_engine", lambda *_, **__: engine)
    return engine


def complete(monkeypatch, name, **counts):
    """Give a task the counts of its miniature."""
    task = replace(tasks.find_task(name), counts=counts, num_videos=None)
    monkeypatch.setitem(tasks.TASKS, name, task)
    return task


def test_every_kind_of_video_is_counted(tmp_path):
    miniature.msvd(tmp_path)
    videos = tmp_path / "MSVD_Zero_Shot_QA" / "videos"
    (videos / "vid1.avi").write_text("this is no video")
    report = check_task(tasks.find_task("msvd"), tmp_path)
    (row,) = report.subtasks
    assert (row.num_items, row.num_askable, row.num_videos) == (5, 2, 4)
    assert (row.num_found, row.num_missing, row.num_unreadable) == (2, 1, 1)
    assert report.differences == (
        "5 items, officially 13157", "test: 1 videos missing and 1 unreadable of 4",
    )  # fmt: skip
    assert [example.split(":")[0] for example in report.examples] == ["videos/vid1.avi", "gone"]
    assert len(report.hashes) == 2


def test_a_known_mistake_is_named(tmp_path, monkeypatch):
    task = replace(tasks.find_task("msvd"), known_counts={5: "the validation split"})
    report = check_task(task, miniature.msvd(tmp_path))
    assert report.differences[0] == "5 items, officially 13157; that is the validation split"


def test_video_chatgpt_counts_a_video_once(tmp_path):
    report = check_task(tasks.find_task("videochatgpt"), miniature.video_chatgpt(tmp_path))
    assert report.num_videos == 2
    assert "2 videos are named, officially 499" in report.differences
    assert "generic: 3 items, officially 1996" in report.differences
    assert "generic: 1 videos missing and 0 unreadable of 2" in report.differences


def test_folders_of_frames_and_clips_beyond_the_end(tmp_path):
    data = miniature.choices_of(tmp_path, FILES.subtasks, num=2)
    path = data / "json" / "action_prediction.json"
    entries = json.loads(path.read_text())
    entries[0] |= {"start": 50.0, "end": 60.0}
    miniature.dump(path, entries)
    report = check_task(tasks.find_task("mvbench"), data)
    rows = {row.name: row for row in report.subtasks}
    assert (rows["episodic_reasoning"].num_found, rows["episodic_reasoning"].num_missing) == (1, 1)
    assert "action_prediction: 1 clips begin after the end of their video" in report.differences
    assert sum("clips begin" in difference for difference in report.differences) == 1


def test_several_processes_find_the_same(tmp_path):
    data, seen = miniature.msvd(tmp_path), []
    task = tasks.find_task("msvd")
    assert check_task(task, data, workers=2, progress=lambda *state: seen.append(state)) == check_task(task, data)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path, monkeypatch):
    data = miniature.msvd(tmp_path)
    monkeypatch.setattr(check, "check_video", die)
    with pytest.raises(InputError, match=r"a process that looks at videos was killed .* fewer --workers"):
        check_task(tasks.find_task("msvd"), data, workers=2)


def test_the_verb_check(run, tmp_path, monkeypatch):
    miniature.msvd(tmp_path)
    code, out, _ = run("eval", "check", "msvd", "--data", tmp_path, "-o", tmp_path / "report.json")
    assert code == 1
    assert "differs: 5 items, officially 13157" in out
    assert "download: test_q.json, test_a.json: github.com/PKU-YuanGroup/Video-LLaVA" in out
    assert json.loads((tmp_path / "report.json").read_text())["subtasks"][0]["num_missing"] == 1

    complete(monkeypatch, "msvd", test=5)
    miniature.clip(tmp_path / "MSVD_Zero_Shot_QA" / "videos" / "gone.webm")
    code, out, _ = run("eval", "check", "msvd", "--data", tmp_path)
    assert code == 0
    assert "msvd: 5 items, as it should be" in out
    code, out, _ = run("eval", "check", "msvd", "--data", tmp_path, "--json")
    assert (code, json.loads(out)["differences"]) == (0, [])


def test_the_verb_eval(run, tmp_path, fake):
    miniature.msvd(tmp_path / "data")
    miniature.choices_of(tmp_path / "data" / "MVBench", FILES.subtasks)
    command = ["eval", "mvbench", "msvd", "--data", tmp_path / "data", "-o", tmp_path / "out"]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "40 of 60 items answered, 20 missing (officially 4,000)" in out
    assert "mean of subtasks" in out
    assert f"judge them: dynimg-vl judge {tmp_path / 'out'}" in out
    code, out, _ = run(*command, "--json")  # nothing is left to ask
    first, second = json.loads(out)
    assert len(fake.asked) == 44
    assert first["result"]["overall"]["num_correct"] == 20
    assert (second["kind"], second["result"], second["is_complete"]) == ("open", None, False)


def test_a_complete_benchmark_says_so(run, tmp_path, fake, monkeypatch):
    complete(monkeypatch, "msvd", test=5)
    miniature.msvd(tmp_path)
    miniature.clip(tmp_path / "MSVD_Zero_Shot_QA" / "videos" / "gone.mkv")
    _, out, _ = run("eval", "run", "msvd", "--data", tmp_path, "-o", tmp_path / "out", "--json")
    assert json.loads(out)[0]["is_complete"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mvsd"], "unknown task 'mvsd'; known: msvd"),
        (["msvd", "mvbench", "--prompt", "p.yaml"], "--prompt is for one task"),
        (["msvd", "--prompt", "none.yaml"], "cannot read the prompt none.yaml"),
        (["msvd", "--mode", "best"], "'best' is not one of"),
        (["msvd", "--limit", "0"], "0 is not in the range x>=1"),
        (["msvd"], "msvd: no test_q.json in"),
        (["mvbench", "--endpoint", "http://localhost:1", "--mode", "likelihood"], "which endpoints do not tell"),
        (["msvd", "--concurrency", "3"], "--concurrency is for a model behind an endpoint"),
        ([], "Missing argument 'TASK...'"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, fake, arguments, said):
    code, out, err = run("eval", "run", *arguments, "--data", tmp_path, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_where_the_output_cannot_be_written(run, tmp_path, fake):
    miniature.msvd(tmp_path)
    (tmp_path / "out").write_text("a file")
    code, _, err = run("eval", "msvd", "--data", tmp_path, "-o", tmp_path / "out")
    assert code == 2
    assert err.startswith("error: cannot write to")
    code, _, err = run("eval", "check", "msvd", "--data", tmp_path / "none")
    assert code == 2
    assert "no such folder of data" in err
    assert "www.cs.utexas.edu" in err


def test_the_processes_of_a_launcher_share_the_work(run, tmp_path, fake, monkeypatch):
    miniature.msvd(tmp_path)
    command = ["eval", "msvd", "--data", tmp_path, "-o", tmp_path / "out", "--json"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        printed.append(run(*command)[1])
    assert printed[0] == ""  # the last one reports for all
    assert json.loads(printed[1])[0]["counts"]["answered"] == 4
    assert sorted(request.id for request in fake.asked) == [f"msvd/test/{number}" for number in range(4)]
    monkeypatch.setenv("RANK", "one")
    assert "RANK, WORLD_SIZE and LOCAL_RANK must be numbers" in run(*command)[2]


def test_the_copies_of_lists_are_true():
    assert evaluate.MODES == predict.MODES
    assert all(name in evaluate.evaluate.help for name in tasks.TASKS)

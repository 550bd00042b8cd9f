"""`dynimg-vl report` on whole folders: what it shows, what it never mixes, and answers that mean harm."""

import errno
import json
import random
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest

from dynimg_vl.cli.app import main
from dynimg_vl.evaluation.items import read_answered, write_items
from dynimg_vl.evaluation.judges.judge import RuleJudge
from dynimg_vl.evaluation.judges.run import judge_plan, plan_judging
from dynimg_vl.evaluation.report.document import escape_markdown
from dynimg_vl.evaluation.report.results import published
from dynimg_vl.evaluation.scoring import give_verdict
from dynimg_vl.evaluation.tasks import TASKS
from evaluation_folders import choice_folder, dialogue_folder, open_folder
from openai_server import OpenAIServer

HOSTILE = (
    "</td><script>alert(1)</script><img src=x onerror=alert(2)>|`x` [a](javascript:alert(3)) \u202e\x1b[31m http://evil"
)


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def scored_choices(out, share, seed):
    source = random.Random(seed)
    names = [name for name in TASKS["mvbench"].counts for _ in range(6)]
    rights = [n % 3 if source.random() < share else (n + 1) % 3 for n in range(len(names))]
    rows = [(name, f"{name}{n % 4}", n % 3, "ABC"[rights[n]]) for n, name in enumerate(names)]
    folder = choice_folder(out, rows)
    lines = [json.dumps(vars(give_verdict(one))) for one in read_answered(folder)]
    (folder / "verdicts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Make two evaluations, of which the first is better: the four open-ended sets and MVBench."""
    root = tmp_path_factory.mktemp("runs")
    for name, share in (("ours", 0.8), ("twin", 0.4)):
        source = random.Random(share)
        for task in ("msvd", "msrvtt", "activitynet", "tgif"):
            rows = [(f"v{n % 9}", "What?", "dog", "a dog" if source.random() < share else "cat") for n in range(60)]
            judge_plan(plan_judging(open_folder(root / name, rows, task)), RuleJudge("containment"))
        scored_choices(root / name, share, share)
    return root


@pytest.fixture
def two_runs(built, tmp_path):
    """Give copies of the two, to do with as one likes."""
    return [Path(shutil.copytree(built / name, tmp_path / name)) for name in ("ours", "twin")]


def test_the_published_rows_are_those_of_the_paper():
    """Checks that the tables carry themselves: averages that the paper prints beside their parts."""
    claims = published()
    first, second = claims["table_1"]["rows"], claims["table_2"]["rows"]
    assert (len(first), len(second)) == (14, 8)
    assert list(claims["table_2"]["codes"]) == list(TASKS["mvbench"].counts)
    for row in second:
        assert len(row["subtasks"]) == 20
        assert row["average"] == pytest.approx(fmean(row["subtasks"]), abs=0.2), row["method"]
    for row in first:
        scores = [value for name, value in row["videochatgpt"].items() if name != "average"]
        if row["method"] not in ("Video-LLaVA", "PLLaVA"):  # none printed; weighted by samples
            assert row["videochatgpt"]["average"] == pytest.approx(fmean(scores), abs=0.035), row["method"]
    dynimg = first[-1]
    assert dynimg["method"] == second[-1]["method"] == "DynImg"
    assert [dynimg[name]["accuracy"] for name in ("msvd", "msrvtt", "activitynet", "tgif")] == [78.6, 64.1, 57.9, 77.5]
    assert (second[-1]["visual_tokens"], second[-1]["average"]) == (576, 55.8)


def test_scores_are_those_of_a_ten_line_reference(run, two_runs):
    code, out, err = run("report", *two_runs, "--json")
    assert (code, err) == (0, "")
    measured = {(one["run"], one["task"]): one for one in json.loads(out)["measured"]}
    for folder in two_runs:
        pairs = read_answered(folder / "msvd")
        right = [pair.texts[0] == "a dog" for pair in pairs]
        assert measured[folder.name, "msvd"]["scores"]["accuracy"]["value"] == pytest.approx(100 * fmean(right))
        tasks = {}
        for pair in read_answered(folder / "mvbench"):
            tasks.setdefault(pair.item.subtask, []).append("ABC".index(pair.texts[0]) == pair.item.answer_index)
        expected = 100 * fmean(fmean(found) for found in tasks.values())
        assert measured[folder.name, "mvbench"]["scores"]["accuracy"]["value"] == pytest.approx(expected)
    assert measured["ours", "msvd"]["scores"]["score"] is None
    assert measured["ours", "msvd"]["visual_tokens"] == 576
    assert measured["ours", "msvd"]["warnings"] == ["60 items, officially 13,157"]


def test_videos_are_told_apart_by_their_folders(run, tmp_path):
    """Each subtask of TVBench counts its videos from the same names; those of CLEVRER serve several subtasks."""
    rows = [(name, video, 0, letter) for name in ("moving_count", "moving_attribute") for video, letter in ("1A", "2B")]
    folder = choice_folder(tmp_path / "run", rows)
    items = read_answered(folder)
    lines = [json.dumps(vars(give_verdict(one))) for one in items]
    (folder / "verdicts.jsonl").write_text("\n".join(lines) + "\n")

    def num_clusters():
        [one] = json.loads(run("report", tmp_path / "run", "--json")[1])["measured"]
        return one["scores"]["accuracy"]["num_clusters"]

    assert num_clusters() == 2
    write_items(folder, [replace(one.item, video=f"video/{one.item.subtask}/1.mp4") for one in items])
    assert num_clusters() == 2
    moved = [replace(one.item, video=f"video/{one.item.subtask}/{one.item.video_name}.mp4") for one in items]
    write_items(folder, moved)
    assert num_clusters() == 4


def test_shuffled_files_give_the_same_report(run, two_runs, tmp_path):
    def numbers(*outs):
        found = json.loads(run("report", *outs, "--json")[1])
        return [(one["task"], one["scores"], one["counts"]) for one in found["measured"]], found["comparisons"]

    before = numbers(*two_runs)
    for out in two_runs:
        for path in [*out.glob("*/items.jsonl"), *out.glob("*/judgements-*"), *out.glob("*/verdicts.jsonl")]:
            lines = path.read_text().splitlines(keepends=True)
            random.Random(0).shuffle(lines)
            path.write_text("".join(lines))
    assert numbers(*two_runs) == before


def test_markdown_has_all_rows_and_marks_claimed_ones(run, two_runs, tmp_path):
    code, out, err = run("report", *two_runs, "-o", tmp_path / "report.md")
    assert (code, out, err) == (0, "", "")
    text = (tmp_path / "report.md").read_text()
    tables = re.split(r"^## ", text, flags=re.MULTILINE)
    table_1 = next(part for part in tables if part.startswith("Open-ended questions"))
    table_2 = next(part for part in tables if part.startswith("MVBench (Table 2)"))
    claims = published()
    for row in claims["table_1"]["rows"]:
        [line] = [line for line in table_1.splitlines() if line.startswith(f"| {row['method']} (claimed) |")]
        values = [row[name][part] for name in ("msvd", "msrvtt", "tgif", "activitynet") for part in row[name]]
        shown = sorted("-" if value is None else f"{value:.1f}" for value in values)
        assert line.split(" | ")[3:5] == [row["encoder"], row["llm"]]
        assert sorted(line.strip("| ").split(" | ")[5:]) == shown
    for row in claims["table_2"]["rows"]:
        assert f"| {row['method']} (claimed) |" in table_2
    for table in (table_1, table_2):
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        assert len({line.count(" | ") for line in lines}) == 1
        ours = [line for line in lines if line.startswith(("| ours |", "| twin |"))]
        assert len(ours) == 2
        assert all("\\[" in line and " n " in line and "claimed" not in line for line in ours)
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert pictures == {"report-mvbench-tasks.svg", "report-tokens-open.svg", "report-tokens-mvbench.svg"}
    for name in pictures:
        assert f"(<{name}>)" in text
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")


def test_claimed_points_are_those_whose_numbers_the_paper_prints(run, two_runs, tmp_path):
    run("report", *two_runs, "-o", tmp_path / "r.md")
    texts = [
        [node.text for node in ElementTree.parse(tmp_path / f"r-tokens-{name}.svg").iter() if node.tag.endswith("text")]
        for name in ("open", "mvbench")
    ]
    claimed = [[text.removesuffix(" (claimed)") for text in found if text.endswith(" (claimed)")] for found in texts]
    assert claimed[0] == ["Video-ChatGPT", "VideoChat", "PLLaVA", "DynImg"]
    assert claimed[1] == ["Video-LLaMA", "Video-ChatGPT", "VideoChat", "VideoChat2", "ST-LLM", "PLLaVA", "DynImg"]
    assert "ours, containment" in texts[0]


def test_runs_are_compared_on_the_same_items_under_the_same_judge(run, two_runs):
    found = json.loads(run("report", *two_runs, "--json")[1])["comparisons"]
    assert {(one["task"], one["metric"]) for one in found} == {
        (task, "accuracy") for task in ("msvd", "msrvtt", "activitynet", "tgif", "mvbench")
    }
    for one in found:
        assert one["difference"]["high"] < 0
        assert one["bootstrap_p"] < 0.05
        assert one["mcnemar_p"] < 0.05
    for task in ("msvd", "msrvtt", "activitynet", "tgif"):
        shutil.rmtree(two_runs[1] / task)
    for name in ("result", "judgements"):
        for path in two_runs[0].glob(f"*/{name}-containment.*"):
            path.rename(path.with_name(path.name.replace("containment", "exact")))
    found = json.loads(run("report", *two_runs, "--json")[1])["comparisons"]
    assert {one["task"] for one in found} == {"mvbench"}


def test_answers_got_in_two_ways_are_not_compared(run, two_runs):
    (two_runs[0] / "mvbench" / "result.json").write_text(json.dumps({"mode": "likelihood"}))
    found = json.loads(run("report", *two_runs, "--json")[1])["comparisons"]
    assert "mvbench" not in {one["task"] for one in found}


def test_another_question_under_the_same_id_is_no_pair(run, two_runs):
    path = two_runs[1] / "mvbench" / "items.jsonl"
    path.write_text(path.read_text().replace("Where to?", "Where from?"))
    found = json.loads(run("report", *two_runs, "--json")[1])["comparisons"]
    assert "mvbench" not in {one["task"] for one in found}


def test_predictions_that_changed_after_judging_are_said_to_have(run, two_runs):
    path = two_runs[0] / "msvd" / "predictions.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])
    text = run("report", *two_runs)[1]
    assert "have changed since they were judged" in text


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.attributes = set(), set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attributes}


def test_answers_that_mean_harm_stay_text(run, tmp_path):
    pytest.importorskip("openai")
    out = tmp_path / "run <b>|x"
    open_folder(out, [(f"v{n}", HOSTILE, HOSTILE, f"{HOSTILE} {n}") for n in range(3)])
    dialogue_folder(out, 1, texts=lambda request: HOSTILE)
    with OpenAIServer(
        lambda body: HOSTILE if "qa" in str(body) or "yes" in str(body) else "{'score': 3}", model=HOSTILE
    ) as server:
        assert run("judge", out, "--base-url", server.base_url)[0] == 0
    assert run("report", out, "-o", tmp_path / "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert "img" not in tags.seen
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert "&lt;script&gt;alert(1)" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not re.search(r"""(src|href)\s*=""", page.replace("&lt;img src=x", ""))
    text = run("report", out)[1]
    assert "<script>" not in text
    assert "http://evil" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    lines = [line for line in text.splitlines() if line.startswith("| run &lt;b&gt;\\|x |")]
    assert lines
    assert "Answers without a verdict" in text


@pytest.mark.parametrize(
    "text", ["a|b", "<b>", "[x](y)", "`c`", "a\nb", "*x*", "_x_", "www.x.y", "a@b.c", "&lt;", "\\|"]
)
def test_markdown_is_escaped(text):
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_<>\[\]@]", escaped)


def test_a_dialogue_has_five_dimensions_and_two_averages(run, tmp_path):
    pytest.importorskip("openai")
    dialogue_folder(tmp_path / "a", 3)

    def reply(body):
        return "{'score': 5}" if "Second question" in str(body) else "{'score': 2}"

    with OpenAIServer(reply) as server:
        run("judge", tmp_path / "a", "--base-url", server.base_url)
    [one] = json.loads(run("report", tmp_path / "a", "--json")[1])["measured"]
    assert one["scores"]["mean_of_five"]["value"] == pytest.approx((2 * 4 + 5) / 5)
    assert one["scores"]["sample_weighted"]["value"] == pytest.approx((2 * (12 * 3 + 3) + 5 * 3) / (12 * 3 + 6))
    text = run("report", tmp_path / "a")[1]
    # A server of one's own is not the vendor, whatever it calls its model.
    assert f"| a | gpt-3.5-turbo-0125 at {server.base_url.split('/')[2]} |" in text
    assert "2.00 \\[2.00, 2.00\\] n 12 of 12" in text


@pytest.mark.parametrize(
    "damage", ["result", "judgements", "judgement", "usage", "deep", "verdicts", "nothing", "form", "folder"]
)
def test_damage_is_one_line(run, tmp_path, damage):
    out = tmp_path / "run"
    open_folder(out, [("v", "What?", "dog", "dog")])
    if damage != "nothing":
        run("judge", out, "--judge", "exact")
    arguments = [out]
    if damage == "result":
        (out / "msvd" / "result-exact.json").write_text("[1")
    elif damage == "judgements":
        (out / "msvd" / "judgements-exact.jsonl").write_text('{"id": 1}\n')
    elif damage == "judgement":
        path = out / "msvd" / "judgements-exact.jsonl"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "state": ["x"]}) + "\n")
    elif damage == "usage":
        path = out / "msvd" / "predictions.jsonl"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "usage": [1]}) + "\n")
    elif damage == "deep":
        (out / "msvd" / "items.jsonl").write_text("[" * 200_000 + "\n")
    elif damage == "verdicts":
        (scored_choices(out, 0.5, 0) / "verdicts.jsonl").write_text("\x00")
    elif damage == "form":
        arguments += ["-o", tmp_path / "report.pdf"]
    elif damage == "folder":
        arguments += ["-o", tmp_path / "nowhere" / "report.md"]
    code, out, err = run("report", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_what_a_run_says_of_its_engine_may_be_anything(run, tmp_path):
    folder = scored_choices(tmp_path / "run", 0.5, 0)
    for engine in ("abc", [1], None, {"model": float("nan")}):
        (folder / "run.json").write_text(json.dumps({"engine": engine}))
        code, out, err = run("report", tmp_path / "run", "--json")
        assert (code, err) == (0, "")
        json.loads(out, parse_constant=pytest.fail)


def test_a_full_disk_is_one_line_and_the_report_before_it_stays(run, two_runs, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("report", *two_runs, "-o", tmp_path / "r.html")[0] == 0
    before = (tmp_path / "r.html").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = run("report", *two_runs, "-o", tmp_path / "r.html")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: cannot write {tmp_path / 'r.html'}: No space left on device; make room, or choose another place\n"
    )
    assert (tmp_path / "r.html").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.html")] == ["r.html"]

"""Tables 1 and 2 of the paper with measured rows below the published ones, and the right part of Figure 1."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..judges.prompts import DIMENSIONS
from ..tasks import TASKS
from .charts import Point, bar_chart, scatter_chart
from .collect import NO_JUDGE, Measured
from .document import Block, Chart, Row, Table
from .formats import plain, with_bounds
from .results import Results
from .statistics import Estimate, estimate

# The four sets that "accuracy" in the right part of Figure 1 is the mean of.
OPEN_SETS = ("msvd", "msrvtt", "activitynet", "tgif")
AVERAGES = {"mean_of_five": "mean of five", "sample_weighted": "sample-weighted"}
_PAPER = "DynImg"
# What the paper says of its own row (Section 4.1); the rows it took over were judged by other versions.
_CLAIMED_JUDGE = "as published"
_PAPER_JUDGE = "gpt-3.5-turbo-0125"


def open_tables(results: Results) -> Iterable[Block]:
    """Table 1, in two: accuracy and score of the four sets, and the benchmark of Video-ChatGPT."""
    claimed = results.claims["table_1"]["rows"]
    columns = ["method", "judge", "visual tokens", "encoder", "LLM"]
    rows = [
        Row(
            _claimed_head(row) + [plain(row[name][metric]) for name in OPEN_SETS for metric in ("accuracy", "score")],
            True,
        )
        for row in claimed
    ]
    for group in results.by_judge(OPEN_SETS):
        cells = [_cell(results, group.get(name), metric) for name in OPEN_SETS for metric in ("accuracy", "score")]
        rows.append(Row([*_head(group.values()), "", *cells]))
    titles = [f"{TASKS[name].title} {metric}" for name in OPEN_SETS for metric in ("accuracy", "score")]
    yield Table(
        "Open-ended questions (Table 1)",
        [*columns, *titles],
        rows,
        "Claimed rows were judged by several versions of GPT-3.5, which move accuracy by up to ten points; MSVD-QA and "
        "MSRVTT-QA of Video-ChatGPT and IG-VLM are of the validation split.",
    )

    rows = [
        Row(
            _claimed_head(row)
            + [plain(row["videochatgpt"][name], 2) for name in DIMENSIONS]
            + [plain(row["videochatgpt"]["average"], 2), "", ""],
            True,
        )
        for row in claimed
    ]
    for group in results.by_judge(("videochatgpt",)):
        one = group["videochatgpt"]
        cells = [_cell(results, one, name, 2) for name in DIMENSIONS]
        rows.append(Row([*_head([one]), "", *cells, "", *(_cell(results, one, name, 2) for name in AVERAGES)]))
    yield Table(
        "Video-ChatGPT benchmark (Table 1)",
        [*columns, *DIMENSIONS, "average as printed", *(f"average, {name}" for name in AVERAGES.values())],
        rows,
        "Publications print either average without saying which: DynImg's is the mean of the five dimensions, that of "
        "PLLaVA-34B is weighted by samples (3 x 1996 + 2 x 499), PLLaVA-7B's 3.12 is neither (2.99 and 3.14).",
    )


def choice_blocks(results: Results, measured: Sequence[Measured]) -> Iterable[Block]:
    """Table 2, or the like for another benchmark with options, and its bars."""
    task = measured[0].task
    is_mvbench = task.name == "mvbench"
    codes: Mapping[str, str] = results.claims["table_2"]["codes"] if is_mvbench else {}
    found = {scored.stratum for one in measured for scored in one.values["accuracy"].scored}
    subtasks = list(codes) or [name for name in task.counts if name in found]
    subtasks += sorted(found - set(subtasks))
    rows, claimed = [], {}
    for row in results.claims["table_2"]["rows"] if is_mvbench else ():
        tokens = "" if row["visual_tokens"] is None else str(row["visual_tokens"])
        cells = [f"{row['method']} (claimed)", "", tokens, row["llm"], *map(plain, row["subtasks"])]
        rows.append(Row([*cells, *[""] * (len(subtasks) - len(codes)), plain(row["average"])], True))
        if row["method"] == _PAPER:
            claimed = dict(zip(codes, row["subtasks"], strict=True))
    by_run = {one.run: _by_subtask(one) for one in measured}
    for one in measured:
        cells = [with_bounds(by_run[one.run].get(name)) for name in subtasks]
        rows.append(Row([*_head([one]), *cells, _cell(results, one, "accuracy")]))
    average = "average" if task.headline == "mean_of_subtasks" else "all questions"
    titles = [codes.get(name, name.replace("_", " ")) for name in subtasks]
    note = "; ".join(f"{code} {name.replace('_', ' ')}" for name, code in codes.items())
    title = f"{task.title} (Table 2)" if is_mvbench else task.title
    yield Table(title, ["method", "mode", "visual tokens", "LLM", *titles, average], rows, note)
    names = [name.replace("_", " ") for name in subtasks]
    series = {run: {name.replace("_", " "): value for name, value in values.items()} for run, values in by_run.items()}
    marks = {name.replace("_", " "): value for name, value in claimed.items()}
    yield Chart(f"{task.title}, by task", f"{task.name}-tasks", bar_chart(names, series, marks, _PAPER))


def _by_subtask(one: Measured) -> dict[str, Estimate]:
    values = one.values["accuracy"].scored
    by_name = {name: [v for v in values if v.stratum == name] for name in {v.stratum for v in values}}
    return {name: found for name, group in by_name.items() if (found := estimate(group)) is not None}


def token_charts(results: Results) -> Iterable[Block]:
    """Draw accuracy against visual tokens: the four open-ended sets as in Figure 1, and MVBench."""
    tokens = {row["method"]: row["visual_tokens"] for row in results.claims["table_2"]["rows"]}
    points = []
    for row in results.claims["table_1"]["rows"]:
        values = [row[name]["accuracy"] for name in OPEN_SETS]
        if tokens.get(row["method"]) and None not in values:
            points.append(Point(row["method"], tokens[row["method"]], fmean(values), True))
    ours = []
    for group in results.by_judge(OPEN_SETS):
        scores = [results.score(one, "accuracy") for one in group.values()]
        count = _tokens(group.values())
        if len(group) == len(OPEN_SETS) and count and all(scores):
            label = f"{next(iter(group.values())).run}, {next(iter(group.values())).judge}"
            ours.append(Point(label, count, fmean(score.value for score in scores if score), False))
    if ours:
        note = (
            "Mean accuracy on MSVD-QA, MSRVTT-QA, ActivityNet-QA and TGIF-QA. Claimed points are those whose token "
            "count (Table 2) and four accuracies (Table 1) the paper prints."
        )
        svg = scatter_chart([*points, *ours], "visual tokens", "accuracy, %")
        yield Chart("Accuracy against visual tokens (Figure 1, right)", "tokens-open", svg, note)
    ours = []
    for one in results.measured:
        score, count = results.score(one, "accuracy"), _tokens([one])
        if one.task.name == "mvbench" and score and count:
            ours.append(Point(one.run, count, score.value, False, score.low, score.high))
    if ours:
        claimed = [
            Point(row["method"], row["visual_tokens"], row["average"], True)
            for row in results.claims["table_2"]["rows"]
            if row["visual_tokens"]
        ]
        svg = scatter_chart([*claimed, *ours], "visual tokens", "MVBench, %")
        yield Chart("MVBench against visual tokens", "tokens-mvbench", svg)


def _claimed_head(row: Mapping[str, Any]) -> list[str]:
    judge = _PAPER_JUDGE if row["method"] == _PAPER else _CLAIMED_JUDGE
    return [f"{row['method']} (claimed)", judge, "", row["encoder"], row["llm"]]


def _cell(results: Results, one: Measured | None, metric: str, digits: int = 1) -> str:
    found = None if one is None else results.score(one, metric)
    if one is None or found is None:
        return "-"
    return f"{with_bounds(found, digits)} n {found.num_values:,} of {one.values[metric].total:,}"


def _head(group: Iterable[Measured]) -> list[str]:
    group = list(group)
    tokens = _tokens(group)
    judge = str(group[0].facts.get("mode") or "") if group[0].judge == NO_JUDGE else group[0].judge
    return [group[0].run, judge, f"{tokens:.0f}" if tokens else "", ""]


def _tokens(group: Iterable[Measured]) -> float | None:
    counts = [one.visual_tokens for one in group if one.visual_tokens and one.visual_tokens > 0]
    return fmean(counts) if counts else None

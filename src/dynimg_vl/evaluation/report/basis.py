"""What numbers rest on: judges, counts and hashes; runs compared; answers without a verdict."""

import json

from .document import Block, Row, Table
from .formats import cut, p_value, with_bounds
from .results import Results
from .tables import AVERAGES


def comparison_table(results: Results) -> Block | None:
    rows = []
    for first, second, metric, found in results.comparisons:
        change = found.difference
        is_accuracy = metric == "accuracy"
        rows.append(
            Row(
                [
                    first.task.title,
                    AVERAGES.get(metric, metric),
                    first.judge,
                    first.run,
                    second.run,
                    with_bounds(change, 1 if is_accuracy else 2, sign="+"),
                    f"{change.num_values:,}",
                    p_value(found.bootstrap_p),
                    p_value(found.mcnemar_p if is_accuracy else None),
                    f"{found.num_only_first} / {found.num_only_second}" if is_accuracy else "",
                ]
            )
        )
    columns = ["task", "metric", "judge", "first run", "second run", "second minus first", "items or verdicts"]
    columns += ["p, bootstrap over videos", "p, McNemar exact", "right only first / second"]
    note = (
        "Only questions that both runs have an answer to, judged alike. McNemar's test takes questions as independent, "
        "which those on one video are not: where the two differ, believe the bootstrap. No correction for many tests."
    )
    return Table("Runs compared on the same items", columns, rows, note) if rows else None


def basis_table(results: Results) -> Block:
    rows = []
    for one in results.measured:
        others = ", ".join(
            f"{count:,} {state}" for state, count in one.counts.items() if state not in ("total", "scored", "judged")
        )
        prompt = one.facts.get("prompt")
        digest = prompt.get("sha256") if isinstance(prompt, dict) else one.facts.get("prompt_sha256")
        models = one.facts.get("models_returned")
        cells = [
            one.run,
            one.task.title,
            f"{one.judge}: {one.facts['mode']}" if one.facts.get("mode") else one.judge,
            ", ".join(map(str, models)) if isinstance(models, list) else "",
        ]
        cells += [
            str(digest or "")[:12],
            str(one.facts.get("date") or ""),
            f"{one.counts['total']:,}",
            f"{one.num_scored:,}",
            others,
        ]
        rows.append(Row([*cells, "; ".join(one.warnings)]))
    columns = ["run", "task", "judge", "model, by its own account", "prompt hash", "date", "in all", "in the score"]
    note = (
        "The prompt hash is that of the judge's wording; of a task with options, that of the prompt to the model. "
        "Open-ended: what has no answer or no verdict is in no score. Options: an answer that fails or names no option "
        "is wrong; a missing video is in no score."
    )
    return Table("What the numbers rest on", [*columns, "states", "warnings"], rows, note, is_text=True)


def runs_table(results: Results) -> Block:
    rows = []
    for run in results.runs:
        engine = run.engine
        cells = [run.label, str(engine.get("model") or "embedded"), str(engine.get("weights_sha256") or "")[:12]]
        rows.append(Row([*cells, json.dumps(engine.get("selection") or {}, sort_keys=True)]))
    return Table("Runs", ["run", "model", "weights hash", "frames"], rows, is_text=True)


def unjudged_table(results: Results) -> Block | None:
    rows = [
        Row(
            [
                one.run,
                one.judge,
                row.id,
                row.state,
                cut(row.message or ""),
                cut(row.replies[-1] if row.replies else ""),
            ]
        )
        for one in results.measured
        for row in one.unjudged
    ]
    columns = ["run", "judge", "case", "state", "why", "last reply"]
    note = "At most ten of each run, task and judge; the judgements' files have all of them."
    return Table("Answers without a verdict", columns, rows, note, is_text=True) if rows else None

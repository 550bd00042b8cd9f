"""Put a report together."""

from ..tasks import TASKS
from .basis import basis_table, comparison_table, runs_table, unjudged_table
from .document import Block, Document
from .results import Results
from .statistics import LEVEL, NUM_RESAMPLES, SEED
from .tables import choice_blocks, open_tables, token_charts


def build_document(results: Results) -> Document:
    """Give a report as blocks: tables of the paper, pictures, comparisons, and what all of it rests on."""
    blocks: list[Block] = []
    of_task = {name: [one for one in results.measured if one.task.name == name] for name in TASKS}
    if any(measured and measured[0].task.kind != "choice" for measured in of_task.values()):
        blocks += open_tables(results)
    for measured in of_task.values():
        if measured and measured[0].task.kind == "choice":
            blocks += choice_blocks(results, measured)
    blocks += token_charts(results)
    blocks += [
        block
        for block in (comparison_table(results), basis_table(results), runs_table(results), unjudged_table(results))
        if block is not None
    ]
    intro = (
        f"Rows marked “claimed” are printed in {results.claims['source']}, with judges and files of their own; they "
        f"were not measured here. Brackets hold {LEVEL:g} % bootstrap intervals over videos ({NUM_RESAMPLES} "
        f"resamples, seed {SEED}). After n stands how many items, or verdicts on items, a number rests on, of how many."
    )
    return Document("Evaluation report", intro, blocks)

"""What is put to a judge, and what came of it: one judgement a line in `judgements-NAME.jsonl`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...inference.journal import replace_file
from ...text_formats import check_types, json_bytes, load_json
from ..items import Answered
from .prompts import QA

# Which dimensions each file of the Video-ChatGPT benchmark is judged for.
ASPECTS_OF_SUBTASK = {"generic": ("CI", "DO", "CU"), "temporal": ("TU",), "consistency": ("CO",)}

# Of the prediction: no video, not asked yet, an error. Of the judge: no verdict in its replies, a refusal, a request
# that the endpoint does not take, no answer in spite of all retries.
UNANSWERED = ("missing", "pending", "failed")
UNJUDGED = ("unparsed", "refused", "rejected", "unreachable")


@dataclass(frozen=True)
class Case:
    """Hold one question for a judge: an item under one aspect ("qa", or a dimension).

    `state` is that of the item's predictions; only where it is "answered" is there anything to judge.
    """

    id: str
    item_id: str
    subtask: str
    video_name: str
    aspect: str
    state: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Judgement:
    """Hold what a judge said of a case.

    Args:
        id: of the case: the item's, with #ASPECT behind it in the Video-ChatGPT benchmark.
        item_id: of the item.
        subtask: of the item.
        video_name: of the item; questions on one video are not independent.
        aspect: "qa" or a dimension.
        state: "judged", or why there is no verdict: one of `UNANSWERED` or `UNJUDGED`.
        is_correct: yes or no; None where there is no verdict or it was not asked for.
        score: 0 to 5; None where there is none.
        replies: everything the judge said, word for word; more than one where it was asked again.
        model: as the endpoint named it.
        key: of the cache.
        message: one line on what went wrong.
    """

    id: str
    item_id: str
    subtask: str
    video_name: str
    aspect: str
    state: str
    is_correct: bool | None = None
    score: int | None = None
    replies: tuple[str, ...] = ()
    model: str | None = None
    key: str | None = None
    message: str | None = None

    @classmethod
    def of(cls, case: Case, state: str, **fields: Any) -> "Judgement":
        """Make the judgement of a case."""
        return cls(case.id, case.item_id, case.subtask, case.video_name, case.aspect, state, **fields)


def cases_of(answered: Iterable[Answered], *, is_dialogue: bool) -> Iterator[Case]:
    """Give what is to be judged, in the order of the items.

    Raises:
        InputError: where an item of the Video-ChatGPT benchmark is of none of its three files.
    """
    for pair in answered:
        item, texts = pair.item, pair.texts
        values = {"question": item.question, "answer": item.answer, "prediction": texts[0]}
        if len(texts) > 1:
            values |= {"question_2": item.questions[1], "prediction_2": texts[1]}
        aspects = ASPECTS_OF_SUBTASK.get(item.subtask) if is_dialogue else (QA,)
        if aspects is None:
            raise InputError(f"{item.id}: no dimension is judged for {item.subtask!r}; run dynimg-vl eval again")
        for aspect in aspects:
            case_id = f"{item.id}#{aspect}" if is_dialogue else item.id
            yield Case(case_id, item.id, item.subtask, item.video_name, aspect, pair.state, values)


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write a file of judgements as a whole."""
    replace_file(path, b"".join(json_bytes(asdict(judgement)) + b"\n" for judgement in judgements))


def read_judgements(path: Path) -> list[Judgement]:
    """Read a file of judgements.

    Raises:
        InputError: where it is missing or damaged.
    """
    judgements = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                judgements.append(_from_json(line, f"{path}: line {number}"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; run dynimg-vl judge again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; run dynimg-vl judge again") from error
    return judgements


_NAMES = tuple(entry.name for entry in fields(Judgement))


def _from_json(line: str, where: str) -> Judgement:
    try:
        value = load_json(line)
        judgement = Judgement(**{**{name: value[name] for name in _NAMES}, "replies": tuple(value["replies"])})
        check_types(judgement)
        if judgement.is_correct not in (None, True, False) or judgement.score not in (None, 0, 1, 2, 3, 4, 5):
            raise ValueError("a verdict that no judge gives")
        return judgement
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where} is no judgement: {error}; run dynimg-vl judge again") from error

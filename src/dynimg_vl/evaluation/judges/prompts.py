"""What a judge is asked: the wording of this project, or the one of a file in the same form as `prompts.txt`."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

QA = "qa"
# The Video-ChatGPT benchmark (Table 1): correctness, detail, context, temporal understanding, consistency.
DIMENSIONS = ("CI", "DO", "CU", "TU", "CO")
PLACEHOLDERS = ("question", "answer", "prediction", "question_2", "prediction_2")

_MAX_BYTES = 1 << 20
_HEADING = re.compile(r"=== *(\w+) +(system|user) *")
_PLACEHOLDER = re.compile("{(" + "|".join(PLACEHOLDERS) + ")}")


@dataclass(frozen=True)
class JudgePrompts:
    """Hold the wording for each aspect ("qa" or a dimension): a system text and a user text, and where it is from."""

    texts: Mapping[str, tuple[str, str]]
    source: str

    def messages(self, aspect: str, values: Mapping[str, str]) -> list[dict[str, str]]:
        """Fill in one question for the judge.

        All placeholders are filled in one pass: an answer that holds "{answer}" stays as it is.

        Raises:
            InputError: where this wording has nothing for the aspect.
        """
        if aspect not in self.texts:
            raise InputError(f"{self.source} has no section '=== {aspect} user'; add it, or leave --judge-prompt out")
        roles = zip(("system", "user"), self.texts[aspect], strict=True)
        return [
            {"role": role, "content": _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), text)}
            for role, text in roles
            if text
        ]

    def hash_of(self, aspect: str) -> str:
        """Give the SHA-256 of an aspect's wording, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.texts.get(aspect)).encode()).hexdigest()

    @property
    def hash(self) -> str:
        """Give the SHA-256 of the whole wording, in hexadecimal."""
        return hashlib.sha256(json.dumps(sorted(self.texts.items())).encode()).hexdigest()


def read_prompts(path: Path | None = None) -> JudgePrompts:
    """Read the wording of a file, or without one that of this project.

    A file has sections, each under a line `=== ASPECT system` or `=== ASPECT user`; aspects are qa, CI, DO, CU, TU and
    CO. `{question}`, `{answer}`, `{prediction}`, and for CO `{question_2}` and `{prediction_2}`, are filled in; other
    braces stay as they are.

    Raises:
        InputError: where the file cannot be read, or has a section that is unknown, doubled or never shows the answer.
    """
    source = str(path) if path else "built-in"
    path = path or Path(__file__).with_name("prompts.txt")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than a prompt can be ({_MAX_BYTES} bytes); name the right file")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; name a file with the judge's wording") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
    sections = _sections(lines, path)
    texts = {}
    for aspect in dict.fromkeys(name for name, _ in sections):
        user = sections.get((aspect, "user"), "")
        needed = ("{prediction}", "{prediction_2}") if aspect == "CO" else ("{prediction}",)
        for placeholder in needed:
            if placeholder not in user:
                raise InputError(f"{path}: the section '=== {aspect} user' does not hold {placeholder}; add it")
        texts[aspect] = (sections.get((aspect, "system"), ""), user)
    return JudgePrompts(texts, source)


def _sections(lines: list[str], path: Path) -> dict[tuple[str, str], str]:
    sections: dict[tuple[str, str], list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        heading = _HEADING.fullmatch(line)
        if heading is None:
            if current is None and line.strip():
                raise InputError(f"{path}: line {number} stands before the first section; begin with '=== qa user'")
            if current is not None:
                current.append(line)
            continue
        aspect, role = heading.groups()
        if aspect not in (QA, *DIMENSIONS):
            raise InputError(f"{path}: line {number}: no aspect {aspect}; there are {QA}, {', '.join(DIMENSIONS)}")
        if (aspect, role) in sections:
            raise InputError(f"{path}: line {number}: a second section for {aspect} {role}; keep one")
        current = sections[aspect, role] = []
    if not sections:
        raise InputError(f"{path} has no section; begin with '=== qa user'")
    return {key: "\n".join(text).strip() for key, text in sections.items()}

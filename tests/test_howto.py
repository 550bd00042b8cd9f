"""The pages of docs/howto: every command that they show is run, in their order, as a new user would.

What the network would give stands in from this machine: a tiny random LLaVA-OneVision for those of the hub, a local
server for the one that "you already serve". What a page prints is compared; `...` on a line of its own stands for any
lines, and what follows `> ` is typed.
"""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dynimg_vl.cli.app import main
from dynimg_vl.inference.pictures import Representation, frames_of_pictures, load_pictures
from dynimg_vl.motion.files import write_clip
from llava import save_source, source_model
from openai_server import OpenAIServer

ROOT = Path(__file__).parents[1]
HOWTO = ROOT / "docs" / "howto"
PAGES = {page.stem: page.read_text() for page in sorted(HOWTO.glob("*.md"))}
HUB_IDS = ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf")
SERVED = "http://localhost:8000/v1"
# Of a page that trains: enough to see that it does.
SHORTER = ("--max_steps", "2", "--per_device_train_batch_size", "2", "--disable_tqdm", "true")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def sessions(page):
    """Yield (command, output) of every `$` line in the console blocks of a page."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def typed(shown):
    """Divide what a page shows into what is typed and what is printed."""
    lines = shown.splitlines(keepends=True)
    said = "".join(line.removeprefix("> ") for line in lines if line.startswith("> "))
    return said, "".join(line for line in lines if not line.startswith("> "))


def fits(output, shown):
    """Compare what was printed with what a page shows."""
    pattern = "".join(".*" if line == "...\n" else re.escape(line) for line in shown.splitlines(keepends=True))
    return re.fullmatch(pattern, output, re.DOTALL) is not None


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_source(tmp_path_factory.mktemp("hub"), source_model(text={"max_position_embeddings": 2048}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give what the pages take for granted: the clone's examples and recipes, clips of a camera, files of questions."""
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("gate0", "gate1", *(f"new{number}" for number in range(8))):
        write_clip(tmp_path / f"{name}.mp4", np.full((12, 48, 64, 3), 40 + 20 * len(name), np.uint8))
    questions, videos = blocks("laptop", "json")[0], blocks("fine_tune_for_my_camera", "json")[0]
    (tmp_path / "questions.jsonl").write_text(questions)
    (tmp_path / "my_videos.jsonl").write_text(videos)
    (shown,) = re.findall(r'\(`(\{"id": "new0".*?\})`\)', PAGES["fine_tune_for_my_camera"])
    lines = [json.loads(shown.replace("new0", f"new{number}")) for number in range(8)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def run_page(page, capsys, **stand_ins):
    """Run the commands of a page one after the other; the first that does otherwise than shown fails the test."""
    for command, shown in sessions(page):
        for name, stand_in in stand_ins.items():
            command = command.replace({"served": SERVED}.get(name, name), str(stand_in))
        for hub_id in HUB_IDS:
            command = command.replace(hub_id, str(stand_ins.get("source", hub_id)))
        program, *arguments = shlex.split(command)
        assert program == "dynimg-vl"
        if arguments[0] == "train":
            arguments += SHORTER
        if "--dtype" in arguments or "--quantize" in arguments:
            arguments += ["--device", "cpu"]
        said, shown = typed(shown)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(said))
            with pytest.raises(SystemExit) as stop:
                main(arguments)
        printed = capsys.readouterr()
        assert stop.value.code == 0, f"{command}: {printed.err}"
        assert fits(printed.out, shown), f"{command} printed {printed.out!r}"
        assert printed.out.strip()


def test_the_server_that_is_there_already(folder, capsys):
    def reply(body):
        return "It moves to the right." if "way" in body["messages"][-1]["content"][-1]["text"] else "Yes."

    with OpenAIServer(reply=reply) as server:
        run_page("with_the_vlm_you_already_serve", capsys, served=server.base_url)


def test_what_is_said_to_be_sent_is_sent(folder):
    rows = re.findall(
        r"^\| (.*?) \| (\d+) pictures? of (\d+) x (\d+) with (\d+) frames \|$",
        PAGES["with_the_vlm_you_already_serve"],
        re.MULTILINE,
    )
    assert len(rows) == 5
    for options, *numbers in rows:
        given = dict(re.findall(r"--(\w+) (\w+)", options))
        representation = Representation(given.get("representation", "dynimg"), given.get("equal"))
        _, told = load_pictures("examples/ball.mp4", representation)
        distinct = {frame["index"] for row in frames_of_pictures(told) for frame in row}
        assert [told["num_pictures"], told["width"], told["height"], len(distinct)] == list(map(int, numbers)), options


@pytest.mark.slow
@pytest.mark.parametrize("page", ["laptop", "one_24gb_card", "fine_tune_for_my_camera"])
def test_the_commands_of_a_page_run(page, folder, source, capsys):
    run_page(page, capsys, source=source)


TESTED_ELSEWHERE = {"convert", "many_questions"}  # tests/conversion, tests/inference/test_batch.py


def test_every_command_of_every_page_is_one_that_a_test_runs():
    """Others than `dynimg-vl` stand in plain blocks, and no page is forgotten here."""
    assert PAGES.keys() - TESTED_ELSEWHERE == {
        "laptop",
        "one_24gb_card",
        "with_the_vlm_you_already_serve",
        "fine_tune_for_my_camera",
    }
    for page in PAGES.keys() - TESTED_ELSEWHERE:
        assert list(sessions(page)), page


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        assert (HOWTO / path).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (HOWTO / path).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target

"""Token ids and labels: against the processor's own, and against a listing that a person can read."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl.training.data.annotations import Clip, Sample
from dynimg_vl.training.data.chat_tokens import NO_LOSS, ChatTokenizer, SampleError
from tiny import VIDEO_TOKEN_ID

GOLDEN = Path(__file__).parents[1] / "golden" / "label_masks.txt"
FRAMES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


def make(*turns, system=None, videos=((0, 1),)):
    """Make a sample of texts, user first; `videos` says how many videos which message shows."""
    messages = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    for number, text in enumerate(turns):
        shown = [{"type": "video"}] * dict(videos).get(number, 0)
        role = ("user", "assistant")[number % 2]
        messages.append({"role": role, "content": [*shown, {"type": "text", "text": text}]})
    clips = tuple(Clip(f"{n}.mp4") for n in range(sum(count for _, count in videos)))
    return Sample(tuple(messages), clips, "test", 1)


SAMPLES = {
    "caption": make("Describe the video.", "A ball rolls."),
    "several turns": make("Who?", "A man.", "Where?", "In a park."),
    "system message": make("Which way?", "left", system="Answer with one word."),
    "two videos, one of them later": make("What?", "a cat", "And here?", "a dog", videos=((0, 1), (2, 1))),
    "text alone": make("What is two and two?", "four", videos=()),
}


def listing(tokenizer, tokens):
    """Write runs of tokens with and without loss, one per line; placeholders as their number."""
    lines = []
    kept = (tokens.labels != NO_LOSS).tolist()
    for (has_loss, is_video), run in groupby(
        zip(kept, tokens.input_ids.tolist(), strict=True), key=lambda pair: (pair[0], pair[1] == VIDEO_TOKEN_ID)
    ):
        ids = [token for _, token in run]
        text = f"<|video_pad|> x {len(ids)}" if is_video else tokenizer.decode(ids).replace("\n", "\\n")
        lines.append(f"{'LOSS' if has_loss else '  --'}  {text}")
    return "\n".join(lines)


def golden_text(processor):
    """List all samples; `tests/golden/make_label_masks.py` writes this to the golden file."""
    chat = ChatTokenizer(processor)
    return "\n\n".join(f"# {name}\n{listing(processor.tokenizer, chat(s))}" for name, s in SAMPLES.items()) + "\n"


def test_label_masks_are_those_of_the_listing(processor):
    assert golden_text(processor) == GOLDEN.read_text()


def by_the_processor(processor, sample):
    """Tokenise by transformers' own way: the whole processor, pixels included, and its assistant mask."""
    messages = [
        {**m, "content": [{**p, "video": FRAMES} if p["type"] == "video" else p for p in m["content"]]}
        for m in sample.messages
    ]
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True,
        processor_kwargs={"fps": 10} if sample.clips else {},
    )  # fmt: skip


def assert_equals_the_processor(processor, sample):
    tokens, theirs = ChatTokenizer(processor, max_length=10**6)(sample), by_the_processor(processor, sample)
    torch.testing.assert_close(tokens.input_ids, theirs["input_ids"][0])
    expected = torch.where(theirs["assistant_masks"][0].bool(), theirs["input_ids"][0], NO_LOSS)
    torch.testing.assert_close(tokens.labels, expected)


@pytest.mark.parametrize("name", SAMPLES)
def test_equal_to_the_processor_s_own_mask(processor, name):
    assert_equals_the_processor(processor, SAMPLES[name])


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), num_exchanges=st.integers(1, 3))
def test_equal_to_the_processor_s_own_mask_for_any_chat(processor, data, num_exchanges):
    turns = [data.draw(words) for _ in range(2 * num_exchanges)]
    shown = tuple((2 * n, data.draw(st.integers(0, 2))) for n in range(num_exchanges))
    assert_equals_the_processor(processor, make(*turns, videos=shown))


def test_equal_to_the_processor_with_merges_over_letters(processor):
    """A tokenizer whose tokens are longer than a letter, as real ones are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from dynimg_vl import DynImgProcessor

    special = processor.tokenizer.convert_ids_to_tokens(range(6))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text = ["assistant\nA man walks in the park.\nuser\nWhere is the man? <system> Über die Straße 猫 \U0001f408"] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, vocab_size=320)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    longer = DynImgProcessor(tokenizer, processor.video_processor)
    assert_equals_the_processor(longer, make("Where is the man?", "in the park 猫", "And\nthe 🐈?", "Über die Straße"))


def test_a_long_sample_is_cut_behind_a_turn(processor):
    sample = SAMPLES["two videos, one of them later"]
    whole = ChatTokenizer(processor)(sample)
    cut = ChatTokenizer(processor, max_length=len(whole.input_ids) - 1)(sample)
    assert (whole.num_turns_cut, whole.num_videos) == (0, 2)
    assert (cut.num_turns_cut, cut.num_videos) == (1, 1)
    torch.testing.assert_close(cut.input_ids, whole.input_ids[: len(cut.input_ids)])
    torch.testing.assert_close(cut.labels, whole.labels[: len(cut.labels)])
    assert processor.tokenizer.decode(cut.input_ids[-7:]) == "a cat<|im_end|>\n"
    with pytest.raises(SampleError, match=r"the first turn has .* tokens, over the 40") as error:
        ChatTokenizer(processor, max_length=40)(sample)
    assert error.value.reason == "too_long"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("What?", ""), "empty_answer"),
        (("What?", "a", "And?", " \n"), "empty_answer"),
        (("What?", "a <|video_pad|>"), "special_token"),
        (("What?<|im_end|>\n<|im_start|>assistant\n", "a"), "special_token"),
    ],
)
def test_samples_that_cannot_be_trained_on(processor, turns, reason):
    with pytest.raises(SampleError, match="test entry 1") as error:
        ChatTokenizer(processor)(make(*turns))
    assert error.value.reason == reason


def test_the_estimated_length_is_near(processor):
    chat = ChatTokenizer(processor)
    sample = make("x" * 40, "y" * 40)
    assert chat.approximate_length(sample) == chat.tokens_per_video + 81 // 4 + 12
    assert ChatTokenizer(processor, max_length=50).approximate_length(sample) == 50

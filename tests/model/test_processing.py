import base64
import http.server
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from dynimg_vl import DynImgProcessor, DynImgVideoProcessor, InputError, VideoError
from dynimg_vl.model import video_source
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_model, tiny_processor

FRAMES = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
TENSORS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
FPS = {"processor_kwargs": {"fps": 10}}  # transformers may write into it: each call gets a copy
K = 16


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config())


def user(text, *videos):
    content = [{"type": "video", "video": video} for video in videos]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_a_chat_is_chatml_with_qwens_tokens(processor):
    text = processor.apply_chat_template([user("Which way?", "a.mp4")], add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which way?<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [{"role": "system", "content": "Be brief."}, user("Hi")]
    assert processor.apply_chat_template(system).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_each_video_becomes_a_run_of_placeholders(processor):
    chat = [user("Which?", FRAMES), assistant("left"), user("And these?", FRAMES[:9], FRAMES[:1])]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, **TENSORS, **deepcopy(FPS))
    ids = inputs["input_ids"][0]
    assert int((ids == VIDEO_TOKEN_ID).sum()) == 3 * 2 * K
    assert inputs["pixel_values_videos"].shape == (6, 3, 64, 64)
    assert inputs["dynimgs_per_video"].tolist() == [2, 2, 2]
    runs = torch.diff((ids == VIDEO_TOKEN_ID).int(), prepend=torch.zeros(1), append=torch.zeros(1))
    assert (runs.eq(-1).nonzero() - runs.eq(1).nonzero()).flatten().tolist() == [2 * K] * 3


def test_several_chats_make_a_left_padded_batch(processor):
    chats = [[user("Which way does it go?", FRAMES)], [user("Hi")], [user("Two?", FRAMES, FRAMES[:5])]]
    kwargs = {"processor_kwargs": {"fps": 10, "padding": True}}
    inputs = processor.apply_chat_template(chats, add_generation_prompt=True, **TENSORS, **kwargs)
    assert (inputs["input_ids"] == VIDEO_TOKEN_ID).sum(-1).tolist() == [2 * K, 0, 4 * K]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1, 1]
    answer = tiny_model(theta=0.1).generate(**inputs, max_new_tokens=2, do_sample=False)
    assert answer.shape[0] == 3


def test_loss_is_on_the_words_of_the_assistant_and_their_end(processor):
    chat = [user("Which?", FRAMES), assistant("left"), user("Sure?"), assistant("yes")]
    inputs = processor.apply_chat_template(chat, return_assistant_tokens_mask=True, **TENSORS, **deepcopy(FPS))
    marked = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert processor.decode(marked) == "left<|im_end|>yes<|im_end|>"


def test_pixels_are_normalised_as_siglip_wants_them(processor):
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert processor.video_processor.normalise(pixels)[:, 0, 0, 0].tolist() == [-1, 1]
    loaded = processor.video_processor.load(FRAMES, fps=10)
    assert loaded.pixels.shape == (2, 3, 64, 64)
    inputs = processor.video_processor(loaded)
    torch.testing.assert_close(inputs["pixel_values_videos"], torch.as_tensor(loaded.pixels).float() / 127.5 - 1)


def test_options_of_one_call(processor):
    video = processor.video_processor
    assert len(video(FRAMES, fps=10, num_dynimgs=3)["pixel_values_videos"]) == 3
    assert video(FRAMES, fps=10, num_frames=32, do_sample_frames=True)["dynimgs_per_video"].tolist() == [2]
    whole, part = (video(FRAMES, fps=10, clip=clip)["pixel_values_videos"] for clip in (None, (0.0, 1.0)))
    assert not whole.equal(part)
    assert video(FRAMES, fps=10)["pixel_values_videos"].equal(whole)
    with pytest.raises(InputError, match="token_grid is 4 in this processor and cannot be 12"):
        video(FRAMES, fps=10, token_grid=12)
    with pytest.raises(InputError, match="unknown options for a video: speed"):
        video.load(FRAMES, speed=2)
    with pytest.raises(InputError, match="no video"):
        video([])


def test_metadata_comes_when_asked_for(processor):
    assert "video_metadata" not in processor(text="<|video_pad|>", videos=FRAMES, fps=10)
    kwargs = {"fps": 10, "return_metadata": True, "return_tensors": "pt"}
    (metadata,) = processor(text="<|video_pad|>", videos=FRAMES, **kwargs)["video_metadata"]
    assert len(metadata["frames"]) == 2


def test_long_videos_have_as_many_placeholders_as_tokens():
    config = tiny_config(max_dynimgs=2)
    processor, model = tiny_processor(config), tiny_model(max_dynimgs=2)
    inputs = processor(text="<|video_pad|>a", videos=FRAMES, fps=10, num_dynimgs=5, return_tensors="pt")
    assert int((inputs["input_ids"] == VIDEO_TOKEN_ID).sum()) == 2 * K
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(("stage", "shape"), [("after", (2, 3, 3, 64, 64)), ("none", (2, 3, 64, 64))])
def test_the_pixels_fit_every_prompt_stage(stage, shape):
    model = tiny_model(prompt_stage=stage)
    inputs = tiny_processor(model.config)(text="<|video_pad|>a", videos=FRAMES, fps=10, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == shape
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(
    ("text", "videos", "message"),
    [
        ("<|video_pad|><|video_pad|>", [FRAMES], "2 video placeholders .* but 1 videos"),
        ("<|video_pad|>", [FRAMES, FRAMES], "1 video placeholders .* but 2 videos"),
        ("<|video_pad|>", None, "1 video placeholders .* but 0 videos"),
        (None, None, "give a text, videos, or both"),
    ],
)
def test_placeholders_and_videos_are_counted(processor, text, videos, message):
    with pytest.raises(InputError, match=message):
        processor(text=text, videos=videos, fps=10)


def test_images_and_odd_frames_are_refused(processor):
    with pytest.raises(InputError, match="videos, not images"):
        processor(text="a", images=[FRAMES[0]])
    with pytest.raises(InputError, match=r"frames must be \(F, H, W, 3\) uint8, got \(48, 64, 3\)"):
        processor.video_processor(FRAMES[0], fps=10)
    channels_first = torch.as_tensor(FRAMES).permute(0, 3, 1, 2)
    found = [processor.video_processor(each, fps=10)["pixel_values_videos"] for each in (FRAMES, channels_first)]
    assert found[1].equal(found[0])


def test_a_processor_survives_saving(tmp_path, processor):
    processor.video_processor.save_pretrained(tmp_path / "video")
    assert DynImgVideoProcessor.from_pretrained(tmp_path / "video").to_dict() == processor.video_processor.to_dict()
    changed = tiny_processor(tiny_config(), policy="gop12", max_pixels=10**6, max_frames=1000, num_dynimgs=3)
    changed.save_pretrained(tmp_path)
    again = DynImgProcessor.from_pretrained(tmp_path)
    assert again.video_processor.to_dict() == changed.video_processor.to_dict()
    assert again.video_processor.max_frames == 1000
    assert again.chat_template == processor.chat_template
    assert again.video_token_id == VIDEO_TOKEN_ID


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompt_frames": 4}, "num_prompt_frames is 2 here and 4 in the model"),
        ({"prompt_stage": "after"}, "prompt_stage is before here and after in the model"),
        ({"vision": {"patch_size": 4}}, "patch_size is 8 here and 4 in the model"),
        ({"video_token_id": 9}, "video_token_id is 5 here and 9 in the model"),
        ({"token_grid": 8, "patch_grid": 16}, "token_grid is 4 here and 8 in the model; patch_grid is 8 here and 16"),
    ],
)
def test_a_model_that_does_not_fit_is_told_with_both_values(processor, fields, message):
    with pytest.raises(InputError, match=message):
        processor.check_compatible(tiny_config(**fields))


def test_a_model_that_fits_fits(processor):
    processor.check_compatible(tiny_model())
    # No prompt frames is no prompt stage, however it is written.
    tiny_processor(tiny_config(num_prompt_frames=0)).check_compatible(tiny_config(prompt_stage="none"))
    with pytest.raises(InputError, match="not for a Linear"):
        processor.check_compatible(torch.nn.Linear(1, 1))


def test_a_tokenizer_without_the_video_token_is_refused(processor):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(InputError, match=r"no <\|video_pad\|>"):
        DynImgProcessor(tokenizer, processor.video_processor)


def test_the_model_answers_about_a_processed_video(processor):
    inputs = processor.apply_chat_template(
        [user("Which?", FRAMES)], add_generation_prompt=True, **TENSORS, **deepcopy(FPS)
    )
    assert set(inputs) <= {*tiny_inputs(tiny_config())}
    tokens = tiny_model().generate(**inputs.to("cpu", torch.float32), max_new_tokens=3)
    assert isinstance(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])[0], str)


@pytest.fixture
def server():
    """Serve 1000 bytes at /clip; other addresses go wrong in other ways."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/no-http":
                self.wfile.write(b"hello\r\n\r\n")
                return
            if self.path == "/short":  # a chunk that ends too early
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc")
                return
            if self.path == "/half":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
                return
            self.send_response({"/gone": 404, "/elsewhere": 302}.get(self.path, 200))
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            if self.path == "/clip":
                self.wfile.write(b"x" * 1000)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_addresses_are_opened_only_when_allowed(server):
    with pytest.raises(InputError, match="allow_urls=True"):
        video_source.resolve_source(f"{server}/clip")
    assert video_source.resolve_source(f"{server}/clip", allow_urls=True) == b"x" * 1000
    with pytest.raises(VideoError, match="more than 999 bytes"):
        video_source.resolve_source(f"{server}/clip", allow_urls=True, max_bytes=999)
    for path in ("/gone", "/elsewhere", "/my clip.mp4", "/short", "/no-http", "/half"):
        with pytest.raises(VideoError, match=r"cannot be downloaded|broke off after 3 bytes"):
            video_source.resolve_source(server + path, allow_urls=True)
    for allowed in (True, False):
        with pytest.raises(InputError, match=r"http://\[::1/x is no address"):
            video_source.resolve_source("http://[::1/x", allow_urls=allowed)


def test_addresses_in_chats_are_refused_by_default(processor):
    chat = [{"role": "user", "content": [{"type": "video", "url": "http://127.0.0.1:9/clip.mp4"}]}]
    with pytest.raises(InputError, match="allow_urls=True"):
        processor.apply_chat_template(chat, **TENSORS)
    with pytest.raises(VideoError, match="cannot be downloaded"):  # port 9: nobody is there
        processor.apply_chat_template(chat, **TENSORS, processor_kwargs={"allow_urls": True})


def test_other_sources_are_told_apart():
    data = "data:video/mp4;base64," + base64.b64encode(b"abc").decode()
    assert video_source.resolve_source(data) == b"abc"
    assert video_source.resolve_source("C:\\clips\\a.mp4") == "C:\\clips\\a.mp4"
    for url in ("file:///etc/hostname", "ftp://host/a.mp4", "concat://a|b"):
        with pytest.raises(InputError, match="cannot be read from"):
            video_source.resolve_source(url, allow_urls=True)
    for broken in ("data:video/mp4,abc", "data:video/mp4;base64,%%%", "data:video/mp4;base64,é"):
        with pytest.raises(VideoError, match="base64"):
            video_source.resolve_source(broken)
    with pytest.raises(VideoError, match="more than 2 bytes"):
        video_source.resolve_source(data, max_bytes=2)

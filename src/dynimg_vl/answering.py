"""Ask a video a question: the whole chain from a file to a sentence."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .loading import DynImgs
    from .model import DynImgForConditionalGeneration, DynImgProcessor

MAX_NEW_TOKENS = 64

LOADING = ("device", "dtype", "num_prompt_frames", "quantize")
"""Options of `load_pretrained`."""


def embedded_model() -> Path:
    """Give the folder of the model that ships inside the package: small, trained on procedural motion."""
    return Path(__file__).parent / "embedded"


def answer(video: Any, question: str, model: str | Path | None = None, **options: Any) -> str:
    """Answer one question about a video.

    Args:
        video: a path of a file or of a folder of frames, the bytes of a file, or frames (F, H, W, 3) uint8.
        question: in plain words.
        model: a folder or hub id; None takes the embedded model.
        **options: `device`, `dtype`, `max_new_tokens`, and what `Answerer.look` takes (`num_dynimgs`, `policy`, `clip`,
            `fps` ...).

    Returns:
        The answer, without special tokens.

    Raises:
        InputError: where the video cannot be read, the folder holds no model, or an option does not fit.
    """
    loading = {name: options.pop(name) for name in LOADING if name in options}
    max_new_tokens = options.pop("max_new_tokens", MAX_NEW_TOKENS)
    answerer = Answerer.from_pretrained(model, **loading)
    return answerer.start(answerer.look(video, **options)).ask(question, max_new_tokens=max_new_tokens).text


def check_words(tokenizer: Any, words: str, what: str = "question") -> None:
    """Make sure that words can be put to a model: not empty, valid text, and without its special tokens.

    Raises:
        InputError: where they cannot; `what` names them.
    """
    if not isinstance(words, str) or not words.strip():
        hint = "; ask something, for example: Which way does the object move?" if what == "question" else ""
        raise InputError(f"the {what} is empty{hint}")
    if any("\ud800" <= letter <= "\udfff" for letter in words):
        raise InputError(f"the {what} is not valid text (UTF-8); type it again")
    # In a question these would be read as what they are: the end of the turn, a video, somebody else's words.
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and str(token) in words:
            raise InputError(f"the {what} holds {token}, a token that steers the model; leave it out")


@dataclass(frozen=True)
class Reply:
    """Hold one answer with what it cost: visual and new tokens, seconds from tokens to text."""

    text: str
    num_visual_tokens: int
    num_new_tokens: int
    seconds: float


@dataclass
class Answerer:
    """Hold a model and its processor, ready to look at videos."""

    model: "DynImgForConditionalGeneration"
    processor: "DynImgProcessor"

    @classmethod
    def from_pretrained(cls, model: str | Path | None = None, **options: Any) -> "Answerer":
        """Load a model (None: the embedded one); `device` and `dtype` are chosen where not given.

        Raises:
            InputError: where there is no model, or model and processor do not fit each other.
        """
        from .model import load_pretrained

        return cls(*load_pretrained(embedded_model() if model is None else model, **options))

    def look(self, video: Any, **options: Any) -> "DynImgs":
        """Turn a video into the DynImgs that this model sees; the options are those of `load_dynimgs`."""
        return self.processor.video_processor.load(video, **options)

    def start(self, dynimgs: "DynImgs") -> "Conversation":
        """Begin a conversation about a video."""
        return Conversation(self, dynimgs)


@dataclass
class Conversation:
    """Hold the turns so far about one video; each question sees those before it."""

    answerer: Answerer
    dynimgs: "DynImgs"
    messages: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> Reply:
        """Answer the next question by greedy decoding; a refused question leaves the conversation as it was.

        Raises:
            InputError: where the question is empty, no text, too long, or holds a special token of the model.
        """
        self._check(question, max_new_tokens)
        content: list[dict[str, Any]] = [{"type": "text", "text": question.strip()}]
        if not self.messages:
            content.insert(0, {"type": "video", "video": self.dynimgs})
        messages = [*self.messages, {"role": "user", "content": content}]
        reply = self._generate(messages, max_new_tokens)
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": reply.text}]}]
        return reply

    def _check(self, question: str, max_new_tokens: int) -> None:
        check_words(self.answerer.processor.tokenizer, question)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}")

    def _generate(self, messages: list[dict[str, Any]], max_new_tokens: int) -> Reply:
        import torch

        from .model.foreign import reading
        from .model.generation import GREEDY

        # transformers types `generate` for a protocol of its own, and every chat template as a string.
        model: Any = self.answerer.model
        processor: Any = self.answerer.processor
        started = time.perf_counter()
        with reading("the chat cannot be turned into tokens"):
            inputs = processor.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
            ).to(model.device, model.dtype)
        length, longest = inputs["input_ids"].shape[1], model.config.text_config.max_position_embeddings
        if length > longest:
            raise InputError(f"video and question are {length} tokens long, the model reads {longest}; ask less")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, **GREEDY)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return Reply(
            text=processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
            num_visual_tokens=int((inputs["input_ids"] == model.config.video_token_id).sum()),
            num_new_tokens=len(new),
            seconds=time.perf_counter() - started,
        )

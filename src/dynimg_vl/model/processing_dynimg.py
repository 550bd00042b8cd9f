"""From a chat to the inputs of the model: text with a run of placeholders per video, and its pixels."""

from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..errors import InputError
from .chat_template import CHAT_TEMPLATE, VIDEO_TOKEN
from .configuration_dynimg import DynImgConfig
from .video_processing_dynimg import DynImgVideoProcessor, flatten_videos, geometry_of


class DynImgProcessor(ProcessorMixin):
    """Prepare chats about videos for a DynImg model.

    `processor(text=..., videos=...)` takes a text with one <|video_pad|> per video; `apply_chat_template` takes
    messages with parts like {"type": "video", "path": "clip.mp4"} and {"type": "text", "text": "What happens?"}.

    Args:
        tokenizer: a tokenizer with Qwen's special tokens.
        video_processor: what turns a video into pixels.
        chat_template: another format of the chat; None is ChatML.
        video_token: the placeholder of a visual token, where the tokenizer has another one than <|video_pad|>.

    Raises:
        InputError: where the tokenizer has no such token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        video_processor: DynImgVideoProcessor | None = None,
        chat_template: str | None = None,
        video_token: str = VIDEO_TOKEN,
    ) -> None:
        video_processor = DynImgVideoProcessor() if video_processor is None else video_processor
        super().__init__(tokenizer, video_processor, chat_template=chat_template or CHAT_TEMPLATE)
        self.video_token = video_token
        self.video_token_id = self.tokenizer.get_vocab().get(video_token)
        if self.video_token_id is None:
            raise InputError(f"the tokenizer has no {video_token}; take one of Qwen2.5, or add it as a special token")

    @classmethod
    def from_config(cls, config: DynImgConfig, tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> "DynImgProcessor":
        """Make the processor that fits a model; further options are those of `DynImgVideoProcessor`.

        Raises:
            InputError: where the tokenizer has another id for the video token.
        """
        processor = cls(tokenizer, DynImgVideoProcessor.from_config(config, **kwargs))
        processor.check_compatible(config)
        return processor

    def check_compatible(self, model: PreTrainedModel | DynImgConfig) -> None:
        """Make sure that a model reads what this processor makes.

        Raises:
            InputError: naming every setting on which the two disagree, with both values.
        """
        config = model.config if isinstance(model, PreTrainedModel) else model
        if not isinstance(config, DynImgConfig):
            raise InputError(f"this processor is for DynImg models, not for a {type(model).__name__}")
        own = {**geometry_of(self.video_processor), "video_token_id": self.video_token_id}
        theirs = {**geometry_of(config), "video_token_id": config.video_token_id}
        differences = [
            f"{name} is {own[name]} here and {theirs[name]} in the model" for name in own if own[name] != theirs[name]
        ]
        if differences:
            raise InputError(f"the processor does not fit the model: {'; '.join(differences)}")

    def validate_inputs(  # type: ignore[override]  # also takes bytes, folders and indices for videos
        self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any
    ) -> None:
        """Check that there is one placeholder per video.

        Raises:
            InputError: where there is not, naming both numbers; also where images are given or nothing is.
        """
        if images is not None:
            raise InputError("a DynImg model reads videos, not images; give an image as a video of one frame")
        num_videos = sum(1 for _ in flatten_videos(videos))
        if text is None:
            if num_videos == 0:
                raise InputError("give a text, videos, or both")
            return
        samples = [text] if isinstance(text, str) else text
        num_places = sum(sample.count(self.video_token) for sample in samples)
        if num_places != num_videos:
            raise InputError(
                f"the text has {num_places} video placeholders ({self.video_token}), but {num_videos} videos"
            )

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """Give the run of placeholders of one video: one per visual token, K for each DynImg."""
        num_dynimgs = int(video_inputs["dynimgs_per_video"][video_idx])
        return self.video_token * self.video_processor.tokens_of_video(num_dynimgs)

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        # Not the parent's: it takes lists of frames and of addresses for videos, and knows neither bytes nor folders.
        inputs = self.video_processor(videos, **kwargs)
        return inputs, [self.replace_video_token(inputs, rank) for rank in range(len(inputs["dynimgs_per_video"]))]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check the parts that a processor is made of."""
        # The parent looks its class up in transformers' top level, where it is missing without torchvision.
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, DynImgVideoProcessor):
            raise TypeError(f"video_processor must be a DynImgVideoProcessor, got a {type(argument).__name__}")
        return DynImgVideoProcessor

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> list[Any]:
        # The parent asks AutoVideoProcessor, which is a stub without torchvision.
        kwargs.pop("processor_dict", None)
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        kwargs.pop("trust_remote_code", None)
        return [tokenizer, DynImgVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)]

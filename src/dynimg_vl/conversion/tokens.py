"""The tokenizer of a source, its placeholder for visual tokens, and the chat format that it was trained with."""

from dataclasses import dataclass
from typing import Any

from transformers.generation import GenerationConfig
from transformers.models.auto.tokenization_auto import AutoTokenizer

from ..errors import InputError
from ..model.chat_template import END_TOKEN, VIDEO_TOKEN, chat_template
from ..model.foreign import reading
from ..model.generation import answering_config
from .source import Source

SYSTEM_MESSAGE = "You are a helpful assistant."
"""What LLaVA-OneVision and LLaVA-Video put before every conversation that they were trained on."""


@dataclass(frozen=True)
class Tokens:
    """Hold what a processor needs of a source.

    Args:
        tokenizer: the source's.
        video_token: what stands in the text for a visual token.
        is_added: whether the tokenizer did not know it before; the weights are those of a spare row either way.
    """

    tokenizer: Any
    video_token: str
    is_added: bool

    @property
    def video_token_id(self) -> int:
        """Give the id of the placeholder."""
        return int(self.tokenizer.convert_tokens_to_ids(self.video_token))

    @property
    def chat_template(self) -> str:
        """Give the format that the source was trained with: ChatML, a system message, a video on a line of its own."""
        return chat_template(video=f"{self.video_token}\n", system=SYSTEM_MESSAGE)


def read_tokens(source: Source) -> Tokens:
    """Read the tokenizer of a source and settle on a placeholder: its own, or a new one in a spare row.

    Raises:
        InputError: where there is no tokenizer, it does not speak ChatML, or there is no spare row.
    """
    if not any((source.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make an empty one.
        raise InputError(f"{source.name} has no tokenizer: neither tokenizer.json nor vocab.json is there")
    with reading(f"{source.name} has no tokenizer that can be read"):
        # With the configuration at hand, nothing is made of the `auto_map` of a source.
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source.folder, config=source.text_config, local_files_only=True, trust_remote_code=False
        )
    vocab = tokenizer.get_vocab()
    for token in ("<|im_start|>", END_TOKEN):
        if token not in vocab:
            raise InputError(f"the tokenizer of {source.name} has no {token}; its chat format is unknown")
    num_rows = source.text_config.vocab_size
    if len(tokenizer) > num_rows:
        raise InputError(f"the tokenizer of {source.name} has {len(tokenizer)} tokens, the embedding {num_rows} rows")
    tokenizer.padding_side = "left"  # answers of a batch begin at one place
    special: dict[int | None, str] = {
        index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    candidates: list[str | None] = [special.get(source.video_token_id), VIDEO_TOKEN, "<video>"]
    for candidate in candidates:
        if candidate is not None and candidate in special.values():
            return Tokens(tokenizer, candidate, is_added=False)
    if len(tokenizer) == num_rows:
        raise InputError(f"{source.name} has no special token for a video, and no row of its embedding is spare")
    tokenizer.add_tokens([VIDEO_TOKEN], special_tokens=True)
    return Tokens(tokenizer, VIDEO_TOKEN, is_added=True)


def generation_config(source: Source, tokens: Tokens) -> GenerationConfig:
    """Take over how a source generates, or what its tokenizer says; the end of a turn always ends an answer."""
    config = None
    if (source.folder / "generation_config.json").is_file():
        with reading(f"{source.name} has a generation_config.json that cannot be read"):
            config = GenerationConfig.from_pretrained(source.folder)
    return answering_config(config, tokens.tokenizer, tokens.video_token_id)

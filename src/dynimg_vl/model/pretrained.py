"""Load a model together with its processor, and say in one line what is wrong where that fails."""

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..text_formats import load_json
from .configuration_dynimg import DynImgConfig
from .foreign import CONFIG_NAME, check_model_name, one_line, read_auto_config, reading
from .modeling_dynimg import DynImgForConditionalGeneration
from .processing_dynimg import DynImgProcessor
from .quantization import quantized

EMBEDDED = "embedded"
"""The name of the model that ships inside the package; a folder of that name is `./embedded`."""


def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    num_prompt_frames: int | None = None,
    quantize: str | None = None,
) -> tuple[DynImgForConditionalGeneration, DynImgProcessor]:
    """Load a DynImg model, ready to answer, and the processor that belongs to it.

    A folder with a LoRA adapter loads the model that it belongs to, and the adapter is merged into that.

    Args:
        name: a folder, a hub id, or "embedded" for the model in the package.
        device: where to put the model; None or "auto" takes a GPU (CUDA, then MPS) if there is one.
        dtype: of the weights; None takes float32 on the CPU and the saved one elsewhere.
        num_prompt_frames: another number of prompt frames than the model was made for.
        quantize: "8bit" or "4bit": the weights of the language model are quantized while they are loaded.

    Raises:
        InputError: where there is no such model or device, the model cannot be quantized here, weights are missing or
            left over, or the two do not fit.
    """
    name = located(str(name))
    device = _device(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    whole = described_by(name)
    config = read_config(whole)
    with reading(f"{whole} has no processor that can be read"):
        processor = DynImgProcessor.from_pretrained(whole, trust_remote_code=False)
    if num_prompt_frames is not None:
        config.num_prompt_frames = num_prompt_frames
        processor.video_processor.num_prompt_frames = num_prompt_frames
        _ = config.layout  # refuses a number that does not fit
    processor.check_compatible(config)
    if quantize is not None:
        if _is_adapter(name):
            raise InputError(f"{name} holds a LoRA adapter, which is not quantized; merge it first (lora.merge)")
        return _load_weights(name, config, dtype, **quantized(quantize, device, dtype)).eval(), processor
    model = _load_adapted(name, config, dtype) if _is_adapter(name) else _load_weights(name, config, dtype)
    return model.to(device).eval(), processor  # type: ignore[arg-type]  # their decorator loses the signature


def located(name: str) -> str:
    """Give the folder of the model in the package for its name; every other name is left as it is."""
    return str(Path(__file__).parents[1] / "embedded") if name == EMBEDDED else name


def _device(device: str | torch.device | None) -> torch.device:
    if device is None or device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} cannot be used here: {one_line(error)}") from error


def read_config(name: str) -> DynImgConfig:
    """Read the configuration of a DynImg model.

    Raises:
        InputError: where there is none.
    """
    name = located(name)
    check_model_name(name)
    kind = "the folder has no model that can be read" if Path(name).is_dir() else "the hub gave none"
    with reading(f"no DynImg model at {name}, {kind}"):
        config = read_auto_config(name)
    if not isinstance(config, DynImgConfig):
        raise InputError(
            f"{name} holds a {config.model_type!r} model, not a DynImg; `dynimg-vl convert` makes one of a "
            "LLaVA-OneVision, `dynimg-vl init` of parts"
        )
    return config


def described_by(name: str) -> str:
    """Tell where the configuration of a model lies: peft writes an adapter alone, our training the rest beside it.

    Raises:
        InputError: where an adapter alone does not say which model it belongs to.
    """
    return _base_of(name) if _is_adapter(name) and not (Path(name) / CONFIG_NAME).is_file() else name


def _is_adapter(name: str) -> bool:
    return (Path(name) / "adapter_config.json").is_file()


def _load_adapted(name: str, config: DynImgConfig, dtype: Any) -> DynImgForConditionalGeneration:
    """Load the model that a LoRA adapter belongs to and merge the adapter into it."""
    try:
        import peft
    except ImportError as error:
        raise InputError(f"{name} holds a LoRA adapter, which needs peft: pip install 'dynimg-vl[train]'") from error
    base = _base_of(name)
    with reading(f"the adapter in {name} cannot be loaded"):
        adapted: Any = peft.PeftModel.from_pretrained(_load_weights(base, config, dtype), name)
        return adapted.merge_and_unload()


def _base_of(name: str) -> str:
    """Tell which model a LoRA adapter belongs to."""
    with reading(f"the adapter in {name} cannot be loaded"):
        base = load_json((Path(name) / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"the adapter in {name} does not say which model it belongs to")
    # An adapter of the embedded model has the place of the package where it was trained.
    is_ours_elsewhere = not Path(base).exists() and Path(base).parts[-2:] == (__package__.split(".")[0], EMBEDDED)
    return located(EMBEDDED) if is_ours_elsewhere else base


def _load_weights(name: str, config: DynImgConfig, dtype: Any, **options: Any) -> DynImgForConditionalGeneration:
    with reading(f"the weights in {name} cannot be loaded"):
        loaded: Any = DynImgForConditionalGeneration.from_pretrained(
            name, config=config, dtype=dtype, output_loading_info=True, **options
        )
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys"):
        if names := sorted(report[kind]):
            raise InputError(
                f"{name} does not hold this model: {len(names)} {kind.replace('_', ' ')}, {names[0]} first"
            )
    return model

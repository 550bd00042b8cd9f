"""The model: configuration, modules, processors. Importing it registers them with transformers' Auto classes."""

from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.models.auto.processing_auto import AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .assembly import create_model
from .configuration_dynimg import DynImgConfig
from .modeling_dynimg import DynImgForConditionalGeneration, DynImgModel, DynImgPreTrainedModel
from .pretrained import load_pretrained
from .processing_dynimg import DynImgProcessor
from .projector import DynImgProjector
from .rotary import DynImgRotaryEmbedding
from .text_model import DynImgTextModel
from .video_processing_dynimg import DynImgVideoProcessor

__all__ = [
    "DynImgConfig",
    "DynImgForConditionalGeneration",
    "DynImgModel",
    "DynImgPreTrainedModel",
    "DynImgProcessor",
    "DynImgProjector",
    "DynImgRotaryEmbedding",
    "DynImgTextModel",
    "DynImgVideoProcessor",
    "create_model",
    "load_pretrained",
]


def _register() -> None:
    AutoConfig.register("dynimg", DynImgConfig, exist_ok=True)
    AutoModel.register(DynImgConfig, DynImgModel, exist_ok=True)
    AutoModelForImageTextToText.register(DynImgConfig, DynImgForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(DynImgConfig, DynImgForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(DynImgConfig, DynImgProcessor, exist_ok=True)
    # From its module: the name at the top level of transformers is a stub where torchvision is missing.
    AutoVideoProcessor.register(DynImgConfig, DynImgVideoProcessor, exist_ok=True)


_register()

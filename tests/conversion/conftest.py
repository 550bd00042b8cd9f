import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from dynimg_vl.conversion import source as source_module
from llava import VISION, save_original, save_source, source_model
from tiny import tiny_config


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Save the sources of most tests: name -> (folder, model)."""
    path = tmp_path_factory.mktemp("sources")
    plain, tied = source_model(), source_model(seed=1, text={"tie_word_embeddings": True})
    half = source_model(seed=2).to(torch.bfloat16)
    deep = source_model(seed=3, vision={"num_hidden_layers": 4, "vision_use_head": True}, vision_feature_layer=-3)
    save_source(path / "sharded", half, max_shard_size="30KB")
    # As anybody would load it: `.to` has rounded the frequencies of the rotary embedding, which no file holds.
    half = LlavaOnevisionForConditionalGeneration.from_pretrained(path / "sharded").eval()
    return {
        "plain": (save_source(path / "plain", plain), plain),
        "tied": (save_source(path / "tied", tied), tied),
        "sharded": (path / "sharded", half),
        "new names": (save_source(path / "new", plain, save_original_format=False), plain),
        "deep": (save_source(path / "deep", deep), deep),
        "original": (save_original(path / "original", plain), plain),
        "original tied": (save_original(path / "original-tied", tied), tied),
    }


@pytest.fixture(scope="session", autouse=True)
def known_tower():
    """Make the tower of the tiny sources known; its fourth layer is the one that their code removes."""
    tower = tiny_config(vision=VISION).vision_config.to_dict()
    tower = {key: tower[key] for key in source_module.SIGLIP_SO400M_384}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(source_module.KNOWN_TOWERS, "tiny-siglip", {**tower, "num_hidden_layers": 4})
        yield

"""Floating-point operations of a training step by formula, and the most that a machine gives.

Counted are matrix products alone, 2 operations per multiply-add, as they are carried out: attention over whole squares,
whatever the mask leaves of them; every layer of the vision tower, those after the projected one included (forward only,
they never learn). Norms, activations, the optimizer and whatever gradient checkpointing computes again are left out, so
that utilisation is that of the model (PaLM, Chowdhery et al. 2022, Appendix B), not of the hardware.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12}
"""bfloat16 operations per second without sparsity, by NVIDIA's data sheets; by part of the device's name."""


@dataclass(frozen=True)
class Work:
    """Hold the operations of one forward pass, by what its backward pass costs, for one sample.

    `patches` is the patch embedding, which needs no gradient of its input; `unread` are the layers of the vision tower
    after the projected one, which have no backward pass; `products` are those with weights, `attention` those without.
    """

    patches: float
    vision: float
    unread: float
    projector_in: float
    projector_out: float
    products: float
    attention: float

    @property
    def forward(self) -> float:
        """Give the operations of the whole forward pass."""
        text = self.products + self.attention
        return self.patches + self.vision + self.unread + self.projector_in + self.projector_out + text

    def step(self, *, is_lora: bool) -> float:
        """Give the operations of forward and backward.

        Backward costs a forward for the gradients of inputs and another for those of weights. Under LoRA the vision
        tower is frozen, the projector learns whole, and no gradient of a weight is computed in the language model but
        the adapters', which are left out.
        """
        projector = 2 * self.projector_in + 3 * self.projector_out
        if is_lora:
            frozen = self.patches + self.vision + self.unread
            return frozen + projector + 2 * self.products + 3 * self.attention
        learning = self.vision + self.projector_in + self.products + self.attention
        return 2 * self.patches + self.unread + 3 * (learning + self.projector_out)


def forward_work(config, num_pictures: int, num_tokens: int, num_logits: int | None = None) -> Work:
    """Count one forward pass of a `DynImgConfig` over one sample.

    Args:
        config: of the model; `prompt_stage` "before" or "none", where a DynImg is one picture.
        num_pictures: that pass through the vision tower.
        num_tokens: of the language model, visual and text.
        num_logits: places at which the next word is predicted; None is all.
    """
    num_logits = num_tokens if num_logits is None else num_logits
    vision, text = config.vision_config, config.text_config
    patches, width = config.layout.patch_grid**2, vision.hidden_size
    linear = 8 * patches * width**2 + 4 * patches * width * vision.intermediate_size
    layer = linear + 4 * patches**2 * width
    depth = vision.num_hidden_layers
    num_read = config.vision_feature_layer % (depth + 1)
    hidden = text.hidden_size
    head_dim = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    block = 4 * hidden * queries + 4 * hidden * keys + 6 * hidden * text.intermediate_size
    return Work(
        patches=num_pictures * 2 * patches * 3 * vision.patch_size**2 * width,
        vision=num_pictures * num_read * layer,
        unread=num_pictures * (depth - num_read) * layer,
        projector_in=num_pictures * 2 * patches * width * hidden,
        projector_out=num_pictures * 2 * patches * hidden**2,
        products=num_tokens * text.num_hidden_layers * block + num_logits * 2 * hidden * text.vocab_size,
        attention=text.num_hidden_layers * 4 * num_tokens**2 * queries,
    )


def measured_peak(
    device: torch.device,
    dtype: torch.dtype,
    clock: Callable[[], float] = time.perf_counter,
    sizes: Sequence[int] = (1024, 2048),
    repetitions: int = 5,
) -> float:
    """Measure operations per second of square matrix products, the best of several sizes and repetitions."""
    if device.type == "cuda":
        sizes = (4096, 8192, 16384)
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(repetitions):
            synchronise(device)
            start = clock()
            left @ right
            synchronise(device)
            best = max(best, 2 * size**3 / (clock() - start))
    return best


def known_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Give the data sheet's operations per second; None where it is not in the table."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in GPU_PEAKS.items() if part in name), None)


def synchronise(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

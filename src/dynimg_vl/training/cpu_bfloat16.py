"""Whether this CPU multiplies in bfloat16, or only pretends to."""

import torch


def multiplies_bfloat16() -> bool:
    """Tell whether bfloat16 products on this CPU are worth having.

    Without the instructions (AVX-512 on x86), torch computes them number by number: 0.7 GFLOP/s against 20 in float32
    (one thread of an AVX2 machine, 8192 x 128 x 512), so that a step of the embedded model's training took 43 s instead
    of 2.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN
        return False

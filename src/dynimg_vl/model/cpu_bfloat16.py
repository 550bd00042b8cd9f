"""Whether this CPU multiplies in bfloat16, or only pretends to."""

import platform

import torch

_X86 = ("x86_64", "amd64", "i386", "i686")


def multiplies_bfloat16() -> bool | None:
    """Tell whether bfloat16 products on this CPU are worth having; None where it is not known.

    On x86 without AVX-512, oneDNN has no such products and plain loops take their place: 0.7 to 2 GFLOP/s against 20 in
    float32 (one thread of an AVX2 machine; docs/log.md, 2026-11-27).
    """
    if platform.machine().lower() not in _X86:
        return None
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")

"""Whether this CPU multiplies in bfloat16, or only pretends to."""

import platform

import torch

_X86 = ("x86_64", "amd64", "i386", "i686")


def multiplies_bfloat16() -> bool | None:
    """Tell whether bfloat16 products on this CPU are worth having; None where it is not known.

    On x86 without instructions for them, they are made of others: on AVX2 in plain loops, 0.7 to 2 GFLOP/s against 20
    in float32, with AVX-512 alone 22 against 82 (one thread each; docs/log.md, 2026-11-27 and 2026-11-28).
    """
    if platform.machine().lower() not in _X86:
        return None
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16"))
    # Before torch had a public way: AVX-512 alone would also be said of what has none of these instructions.
    told = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return None if told is None else bool(told())

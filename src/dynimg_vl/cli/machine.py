"""What a machine has: memory, disk, devices, packages."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = {
    "torch": "everything",
    "transformers": "everything",
    "av": "reading videos",
    "accelerate": "training, --quantize, several devices",
    "bitsandbytes": "--quantize",
    "peft": "LoRA: training, and answering with an adapter",
    "pyyaml": "recipes of training",
    "tensorboard": "watching a training",
    "openai": "judges and models behind an endpoint",
    "flash-attn": "faster attention on CUDA, where a recipe asks for it",
}
"""Third-party packages by name, and what each is for."""


@dataclass(frozen=True)
class Device:
    """Describe what can compute: `name` as --device takes it, its memory in bytes, and what its weights can be.

    `slow` are those of `dtypes` that it has no instructions for.
    """

    name: str
    label: str
    memory: int
    free: int
    dtypes: tuple[str, ...]
    slow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Hold the facts about a machine; sizes in bytes."""

    cores: int
    ram: int
    ram_available: int
    disk_free: int
    disk: str
    devices: tuple[Device, ...]
    packages: Mapping[str, str | None] = field(default_factory=dict)


def this_machine() -> Machine:
    """Look at this machine; the disk is the one where models from the hub are kept."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    while not cache.exists() and cache != cache.parent:
        cache = cache.parent
    ram, available = _memory()
    return Machine(
        cores=os.cpu_count() or 1,
        ram=ram,
        ram_available=available,
        disk_free=shutil.disk_usage(cache).free,
        disk=str(cache),
        devices=(*_accelerators(), _cpu(ram, available)),
        packages={name: _version(name) for name in PACKAGES},
    )


def _memory() -> tuple[int, int]:
    # All of it and what is to be had now; a container may have less than its machine.
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    used = _number(Path("/sys/fs/cgroup/memory.current"))
    available = total
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines.get("MemAvailable", f"{total // 1024} kB").split()[0]) * 1024
    if limit is not None and limit < total:
        return limit, min(available, max(0, limit - (used or 0)))
    return total, available


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _cpu(ram: int, available: int) -> Device:
    from ..model.cpu_bfloat16 import multiplies_bfloat16

    slow = ("bfloat16",) if multiplies_bfloat16() is False else ()
    return Device("cpu", "CPU", ram, available, ("float32", "bfloat16"), slow)


def _accelerators() -> list[Device]:
    import torch

    found = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            with torch.cuda.device(number):
                dtypes = ("float32", "float16", *(("bfloat16",) if torch.cuda.is_bf16_supported() else ()))
            found.append(Device(f"cuda:{number}", torch.cuda.get_device_name(number), total, free, dtypes))
    if torch.backends.mps.is_available():
        total, available = _memory()  # shared with the CPU
        found.append(Device("mps", "Apple GPU", total, available, ("float32", "float16", "bfloat16")))
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

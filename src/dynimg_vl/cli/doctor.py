"""`doctor`: what this machine can run, before anything is downloaded, and what is wrong with a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .machine import PACKAGES, Device, Machine, this_machine
from .options import emit_json, json_option

if TYPE_CHECKING:
    from ..model.footprint import Footprint

GB = 10**9


@click.command()
@click.argument("model", required=False)
@json_option
def doctor(model: str | None, as_json: bool) -> int:
    """Tell what this machine can run: memory, devices, packages, and which models fit.

    With MODEL, a folder, also what that is, and what is wrong with it; the exit code is 1 where something is.

    Nothing is downloaded. What a model takes is computed from its dimensions.
    """
    from logging import ERROR, getLogger

    getLogger("transformers").setLevel(ERROR)
    facts = examine(this_machine(), model)
    if as_json:
        emit_json(facts)
    else:
        _show(facts)
    return 1 if facts.get("model", {}).get("problems") else 0


def examine(machine: Machine, model: str | None = None) -> dict[str, Any]:
    """Collect the facts: the machine, the models that are known, and the one that is named."""
    from ..answering import embedded_model
    from ..model.footprint import CONVERTED, converted_config, footprint
    from ..model.pretrained import read_config

    own = footprint(read_config(str(embedded_model())))
    known = [{"name": "embedded", "source": None, **_sizes(machine, own), "download_gb": 0.0}]
    for size, (source, _) in CONVERTED.items():
        sizes = footprint(converted_config(size))
        download = round(sizes.weights("bfloat16") / GB, 1)
        room = 2 * sizes.weights("bfloat16")
        known.append(
            {
                "name": size,
                "source": source,
                **_sizes(machine, sizes),
                "download_gb": download,
                "disk_fits": machine.disk_free >= room,
            }
        )
    facts: dict[str, Any] = {
        "cores": machine.cores,
        "ram_gb": round(machine.ram / GB, 1),
        "ram_available_gb": round(machine.ram_available / GB, 1),
        "disk_free_gb": round(machine.disk_free / GB, 1),
        "disk": machine.disk,
        "devices": [_device(each) for each in machine.devices],
        "packages": {name: {"version": found, "for": PACKAGES.get(name)} for name, found in machine.packages.items()},
        "models": known,
    }
    if model is not None:
        facts["model"] = _examine_model(machine, model)
    return facts


def _device(device: Device) -> dict[str, Any]:
    return {
        "device": device.name,
        "name": device.label,
        "memory_gb": round(device.memory / GB, 1),
        "free_gb": round(device.free / GB, 1),
        "dtypes": list(device.dtypes),
        "slow_dtypes": list(device.slow),
    }


def _sizes(machine: Machine, sizes: "Footprint") -> dict[str, Any]:
    from ..model.footprint import FORMATS

    return {
        "num_parameters": sizes.num_parameters,
        "memory_gb": {kind: round(sizes.memory(kind) / GB, 1) for kind in FORMATS},
        "fits": {
            device.name: [kind for kind in FORMATS if _runs(kind, device) and sizes.memory(kind) <= device.free]
            for device in machine.devices
        },
    }


def _runs(kind: str, device: Device) -> bool:
    if kind in ("8bit", "4bit"):
        return device.name == "cpu" or device.name.startswith("cuda")
    # Where there is no bfloat16 there is float16, which takes the same room.
    return kind in device.dtypes or (kind == "bfloat16" and "float16" in device.dtypes)


def _examine_model(machine: Machine, model: str) -> dict[str, Any]:
    from ..model.footprint import footprint
    from ..model.foreign import reading
    from ..model.pretrained import described_by, located, read_config

    folder = Path(located(model))
    if not folder.is_dir():
        raise InputError(f"no such folder: {model}; doctor looks at what is here, and downloads nothing")
    try:
        whole = Path(described_by(str(folder)))
        if not whole.is_dir():
            raise InputError(f"{folder} holds an adapter of {whole}, which is no folder here and was not looked at")
        config = read_config(str(whole))
        with reading(f"no model can be built as {whole} says"):
            sizes = _sizes(machine, footprint(config))
    except InputError as error:
        return {"folder": str(folder), "problems": [f"{error}{_hint(folder)}"]}
    layout = config.layout
    return {
        "folder": str(folder),
        "image_size": layout.image_size,
        "tokens_per_dynimg": layout.tokens_per_dynimg,
        "num_dynimgs": config.num_dynimgs,
        "num_prompt_frames": layout.num_prompt_frames,
        "patch_grid": layout.patch_grid,
        "rope_axes": config.rope_axes,
        "vision_layers": config.vision_config.num_hidden_layers,
        "text_layers": config.text_config.num_hidden_layers,
        **sizes,
        "problems": _problems(whole, config),
    }


def _hint(folder: Path) -> str:
    from ..conversion.source import open_source

    try:
        open_source(str(folder))
    except InputError:
        return ""
    return f"; `dynimg-vl convert {folder} -o FOLDER` makes one of it"


def _problems(folder: Path, config: Any) -> list[str]:
    from ..conversion.weights import check_complete
    from ..model.foreign import reading
    from ..model.processing_dynimg import DynImgProcessor

    def processor() -> None:
        with reading(f"{folder} has no processor that can be read"):
            found = DynImgProcessor.from_pretrained(folder, trust_remote_code=False)
        found.check_compatible(config)

    def weights() -> None:
        if not (folder / "adapter_config.json").is_file():
            check_complete(folder, config)

    problems = []
    for check in (processor, weights):
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    return problems


def _show(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['cores']} cores, {facts['ram_available_gb']} of {facts['ram_gb']} GB of memory free")
    click.echo(f"{facts['disk_free_gb']} GB free at {facts['disk']}, where downloads go")
    for each in facts["devices"]:
        click.echo(
            f"{each['device']}: {each['name']}, {each['free_gb']} of {each['memory_gb']} GB free, "
            f"{', '.join(f'{kind} (slow)' if kind in each['slow_dtypes'] else kind for kind in each['dtypes'])}"
        )
    click.echo("\npackages")
    for name, each in facts["packages"].items():
        click.echo(f"  {name:14}{each['version'] or '-':16}{each['for']}")
    click.echo("\nmodels: memory in GB (computed; what 8bit and 4bit leave is bfloat16), and what fits")
    for each in facts["models"]:
        _show_sizes(each["name"], each)
        if each["source"]:
            room = "" if each["disk_fits"] else "; not enough disk to keep it and its conversion"
            command = f"dynimg-vl convert {each['source']} -o FOLDER"
            click.echo(f"            {each['download_gb']} GB to download: {command}{room}")
    if "model" in facts:
        _show_model(facts["model"])


def _show_sizes(name: str, sizes: dict[str, Any]) -> None:
    memory = "  ".join(f"{kind} {size:.1f}" for kind, size in sizes["memory_gb"].items())
    click.echo(f"  {name:10}{sizes['num_parameters'] / 1e6:9.1f} M   {memory}")
    for device, kinds in sizes["fits"].items():
        click.echo(f"            {device}: {', '.join(kinds) or 'does not fit'}")


def _show_model(model: dict[str, Any]) -> None:
    click.echo(f"\n{model['folder']}")
    if "image_size" in model:
        click.echo(
            f"  {model['num_dynimgs']} DynImgs of {model['image_size']} pixels, {model['patch_grid']} x "
            f"{model['patch_grid']} patches, {model['tokens_per_dynimg']} tokens, {model['num_prompt_frames']} prompt "
            f"frames; positions {model['rope_axes']}"
        )
        _show_sizes("", model)
    for problem in model["problems"]:
        click.echo(f"  problem: {problem}")
    if not model["problems"]:
        click.echo("  no problem found; the numbers in its weights were not read")

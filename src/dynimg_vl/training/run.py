"""From a recipe to a trained model: the one function behind `dynimg-vl train` (Section 4.1)."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import set_seed

from ..errors import InputError
from ..model.chat_template import VIDEO_TOKEN
from ..model.foreign import one_line
from ..model.modeling_dynimg import DynImgForConditionalGeneration
from ..model.pretrained import load_pretrained
from ..model.processing_dynimg import DynImgProcessor
from .arguments import DynImgTrainingArguments, build_arguments
from .checkpoints import PARTIAL, checkpoints, discard_partial, explained, last_checkpoint, publish
from .data.collator import Collator
from .data.dataset import VideoTextDataset
from .data.sample_source import open_samples
from .lora import LoraSettings, add_lora, merged
from .parameter_groups import freeze, master_weights
from .recipe import ModelSettings, TrainRecipe
from .stopping import SignalStop
from .trainer import DynImgTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """Say how the processes were started: how many there are in all, and how many on this machine."""

    num_processes: int = 1
    num_local_processes: int = 1


@dataclass(frozen=True)
class TrainResult:
    """Tell how a run ended.

    Args:
        model: the folder of the finished model, or of the adapter; None where the run was stopped.
        step: the last one.
        num_steps: of the whole run.
        loss: the last that was logged.
        stopped_by: the number of the signal that stopped it; 0 where it came to its end.
        is_main: whether this is the process that speaks for all.
        samples: how many samples became what, see `sample_status.REASONS`.
    """

    model: Path | None
    step: int
    num_steps: int
    loss: float | None
    stopped_by: int = 0
    is_main: bool = True
    samples: Mapping[str, int] = field(default_factory=dict)


def train(recipe: TrainRecipe, launch: Launch | None = None) -> TrainResult:
    """Train as a recipe says, going on from the last complete checkpoint in its output folder.

    Every process that takes part calls this. SIGINT or SIGTERM ends the run after the present step, with a checkpoint.

    Raises:
        InputError: where something in the recipe, the data, the devices or the disk is not as it has to be, or the loss
            is no number; earlier checkpoints stay as they are.
    """
    check_devices(recipe, launch or Launch())
    # What fails soon comes first: samples are found missing before a large model is read.
    args = build_arguments(recipe.training)
    folder = Path(str(args.output_dir))
    resumed = _checkpoint_to_resume(args, folder)
    lora = None if args.lora is None else LoraSettings.from_values(args.lora)
    if args.process_index == 0:
        _note_recipe(folder, recipe)
    source = open_samples(
        recipe.data.path, annotation_root=recipe.data.annotation_root, video_root=recipe.data.video_root
    )
    set_seed(args.seed)
    model, processor = build_model(recipe.model, lora, args)
    dataset = VideoTextDataset(source, processor, recipe.data.options)
    collator = Collator(int(processor.tokenizer.pad_token_id), recipe.data.pack_length)
    use_cache = getattr(model.config, "use_cache", None)
    listener = SignalStop()
    trainer = make_trainer(
        model, args, listener=listener, train_dataset=dataset, data_collator=collator, processing_class=processor
    )
    _run(trainer, listener, resumed)
    samples = report_samples(dataset, trainer)
    exported = None
    if not trainer.stopped_by:
        # The trainer has switched the cache off, which is nothing to pass on to those who use the model.
        model.config.use_cache = use_cache
        exported = trainer.export(extra={} if lora is None else {"config.json": _base_config(model)})
        if lora is not None and lora.merge:
            _export_merged(trainer, processor, folder)
    return _result(trainer, exported, samples)


def check_devices(recipe: TrainRecipe, launch: Launch) -> None:
    """Make sure that there are as many processes as the recipe wants and a GPU for each, before anything is loaded.

    Raises:
        InputError: where there are not.
    """
    wanted = recipe.training.get("num_processes")
    if wanted is not None and wanted != launch.num_processes:
        raise InputError(
            f"the recipe is for {wanted} processes, one per GPU, and {launch.num_processes} was started: use "
            f"torchrun --nproc-per-node {wanted} -m dynimg_vl train ..., or --num_processes {launch.num_processes} "
            "(this changes the size of a batch)"
        )
    num_gpus = torch.cuda.device_count()
    if not recipe.training.get("use_cpu") and launch.num_local_processes > max(num_gpus, 1):
        raise InputError(f"{launch.num_local_processes} processes were started on a machine with {num_gpus} GPUs")
    if recipe.training.get("fsdp") and launch.num_processes == 1:
        raise InputError(
            "fsdp shards a model over several processes, and one was started; use torchrun, or --fsdp false"
        )


def _checkpoint_to_resume(args: DynImgTrainingArguments, folder: Path) -> Path | None:
    given = args.resume_from_checkpoint
    if given is not None:
        if not Path(given).is_dir():
            raise InputError(f"resume_from_checkpoint: no such folder: {given}")
        return Path(given)
    if not args.resume and checkpoints(folder):
        raise InputError(f"{folder} holds checkpoints of an earlier run; choose another folder, or --resume true")
    return last_checkpoint(folder)


def build_model(
    settings: ModelSettings, lora: LoraSettings | None, args: DynImgTrainingArguments
) -> tuple[Any, DynImgProcessor]:
    """Load or build the model with its processor, frozen, adapted and in the precisions that the run needs.

    Raises:
        InputError: where it is not there, a setting does not fit it, or nothing would learn.
    """
    if lora is not None and settings.path is None:
        raise InputError("LoRA needs model: path; build the model first, with `dynimg-vl init -o FOLDER`, and name it")
    model, processor = _load(settings)
    if settings.attention is not None:
        try:
            model.set_attn_implementation(settings.attention)
        except (ValueError, ImportError) as error:
            raise InputError(f"model: attention {settings.attention!r} does not work: {one_line(error)}") from error
    if lora is not None:
        model = add_lora(model, lora, settings.path)
    freeze(model, args.frozen)
    if (args.bf16 or args.fp16) and not args.fsdp:  # accelerate does it for what it shards
        master_weights(model)
    return model.train(), processor


def _load(settings: ModelSettings) -> tuple[Any, DynImgProcessor]:
    if settings.path is not None:
        return load_pretrained(settings.path, device="cpu", dtype=settings.dtype)
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.text)
    except (OSError, ValueError) as error:
        raise InputError(f"{settings.text} has no tokenizer: {one_line(error)}") from error
    video_token_id = tokenizer.get_vocab().get(VIDEO_TOKEN)
    if video_token_id is None:
        raise InputError(f"the tokenizer of {settings.text} has no {VIDEO_TOKEN}; take a Qwen2.5")
    try:
        model = DynImgForConditionalGeneration.from_backbones(
            str(settings.vision),
            str(settings.text),
            dtype=settings.dtype,
            **{"video_token_id": video_token_id, **settings.config},
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model: {one_line(error)}") from error
    return model, DynImgProcessor.from_config(model.config, tokenizer)


def make_trainer(model: Any, args: DynImgTrainingArguments, **kwargs: Any) -> DynImgTrainer:
    """Build the trainer, with what transformers and accelerate refuse as one line.

    Raises:
        InputError: where settings do not go together or something is not installed.
    """
    try:
        return DynImgTrainer(model, args, **kwargs)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"training: {one_line(error)}") from error


def _run(trainer: DynImgTrainer, listener: SignalStop, resumed: Path | None) -> None:
    folder = Path(str(trainer.args.output_dir))
    if trainer.args.should_save:
        discard_partial(folder)
    if resumed is not None:
        logger.info("going on from %s", resumed)
    with listener:
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    if not trainer.stopped_by:
        with explained("the log", folder):
            trainer.save_state()


def _note_recipe(folder: Path, recipe: TrainRecipe) -> None:
    # As it was run, with what the command line changed; the first thing one looks for a year later.
    with explained("the recipe", folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(recipe), indent=2, default=str)
        (folder / "recipe.json").write_text(text + "\n")


def report_samples(dataset: Dataset, trainer: DynImgTrainer) -> dict[str, int]:
    """Count over all processes what became of the samples; each writes those it could not use to a file.

    Every process has to call this.
    """
    status = getattr(dataset, "status", None)
    if status is None:
        return {}
    from accelerate.utils import gather_object

    counts = {reason: number for reason, number in status.counts().items() if reason != "unseen"}
    broken = list(dataset.broken())  # type: ignore[attr-defined]  # it goes with the status
    folder = Path(str(trainer.args.output_dir))
    if broken:
        with explained("the list of broken samples", folder):
            path = folder / f"broken_samples_{trainer.args.process_index}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in broken))
    total: dict[str, int] = {}
    for part in gather_object([counts]):
        for reason, number in part.items():
            total[reason] = total.get(reason, 0) + number
    return total


def _base_config(model: Any) -> str:
    # Beside an adapter, so that it can be loaded by its folder alone, like any model.
    return model.get_base_model().config.to_json_string()


def _export_merged(trainer: DynImgTrainer, processor: DynImgProcessor, folder: Path) -> None:
    if trainer.is_world_process_zero():
        partial = folder / PARTIAL / "merged"
        with explained("the merged model", folder):
            merged(trainer.accelerator.unwrap_model(trainer.model)).save_pretrained(partial)
            processor.save_pretrained(partial)
            publish(partial, folder / "merged")
            discard_partial(folder)
    trainer.accelerator.wait_for_everyone()


def _result(trainer: DynImgTrainer, exported: Path | None, samples: Mapping[str, int]) -> TrainResult:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainResult(
        model=exported,
        step=trainer.state.global_step,
        num_steps=trainer.state.max_steps,
        loss=losses[-1] if losses else None,
        stopped_by=trainer.stopped_by,
        is_main=trainer.is_world_process_zero(),
        samples=samples,
    )

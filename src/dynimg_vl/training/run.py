"""From a recipe to a trained model: the one function behind `dynimg-vl train` (Section 4.1)."""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch.utils.data import Dataset
from transformers import set_seed

from ..errors import InputError
from ..model.foreign import one_line
from ..model.processing_dynimg import DynImgProcessor
from ..text_formats import json_bytes
from .arguments import DynImgTrainingArguments, build_arguments
from .building import build_model
from .checkpoints import PARTIAL, checkpoints, discard_partial, explained, last_checkpoint, publish, step_of
from .data.collator import Collator
from .data.dataset import VideoTextDataset
from .data.sample_source import open_samples
from .data.shard_format import written_atomically
from .data.share_check import CheckShareOfAll
from .lora import LoraSettings, merged
from .memory import keep_freed_memory
from .motion import fast_attention
from .motion.data import View
from .motion.staged_data import StagedDataset, ValidationBatches, take_only
from .motion.staged_trainer import StagedTrainer, build_learner
from .recipe import TrainRecipe
from .resuming import FORCE, RECIPE_FILE, check_resumable
from .stopping import SignalStop
from .trainer import DynImgTrainer

logger = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds to wait for a run in the same folder: one that was killed may leave a worker for some."""
_KILLED_WORKER = re.compile(r"DataLoader worker .*(killed|exited unexpectedly)")


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
        received: the number of the last signal, also of one that came too late to stop it; 0 for none.
        is_main: whether this is the process that speaks for all.
        samples: how many samples became what, see `sample_status.REASONS`.
    """

    model: Path | None
    step: int
    num_steps: int
    loss: float | None
    stopped_by: int = 0
    received: int = 0
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
    described = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    described["training"]["num_processes"] = args.world_size  # it may be left to the launcher
    if args.process_index == 0 and resumed is not None and args.resume != FORCE:
        check_resumable(resumed, described)
    if args.device.type == "cpu":
        keep_freed_memory()
    with _alone_in(folder, args.process_index), torch_threads(args.num_threads):
        if args.process_index == 0:
            _note_recipe(folder, described)
        set_seed(args.seed)
        listener = SignalStop()
        if recipe.schedule is None:
            return _train_on_annotations(recipe, args, lora, resumed, listener)
        if lora is not None:
            raise InputError("training: lora is not for data.world, which trains whole models; leave it out")
        trainer = staged_trainer(recipe, args, listener)
        _run(trainer, listener, resumed)
        return _result(trainer, listener, None if trainer.stopped_by else trainer.export(), {})


@contextmanager
def _alone_in(folder: Path, process_index: int) -> Iterator[None]:
    """Keep other runs out of the folder: they would take each other's unfinished checkpoints away.

    Raises:
        InputError: where one is there.
    """
    if process_index != 0:
        yield
        return
    with explained("the recipe", folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".train.lock", timeout=_PATIENCE)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(f"another process trains in {folder}; wait for it, or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _train_on_annotations(
    recipe: TrainRecipe,
    args: DynImgTrainingArguments,
    lora: LoraSettings | None,
    resumed: Path | None,
    listener: SignalStop,
) -> TrainResult:
    folder = Path(str(args.output_dir))
    data: Any = recipe.data
    source = open_samples(data.path, annotation_root=data.annotation_root, video_root=data.video_root)
    model, processor = build_model(recipe.model, lora, args)
    dataset = VideoTextDataset(source, processor, recipe.data.options)
    if resumed is not None:
        dataset.status.read(resumed, args.process_index, args.world_size)
    collator = Collator(int(processor.tokenizer.pad_token_id), recipe.data.pack_length)
    use_cache = getattr(model.config, "use_cache", None)
    trainer = make_trainer(
        DynImgTrainer,
        model,
        args,
        listener=listener,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=processor,
    )
    trainer.add_callback(CheckShareOfAll(dataset, trainer.accelerator))
    _run(trainer, listener, resumed)
    samples = report_samples(dataset, trainer)
    exported = None
    if not trainer.stopped_by:
        # The trainer has switched the cache off, which is nothing to pass on to those who use the model.
        model.config.use_cache = use_cache
        exported = trainer.export(extra={} if lora is None else {"config.json": _base_config(model)})
        if lora is not None and lora.merge:
            _export_merged(trainer, processor, folder)
    return _result(trainer, listener, exported, samples)


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
        last = last_checkpoint(folder)
        if last is not None and step_of(last) > step_of(Path(given)):
            # Old ones go by their steps: what this run saved would go before them.
            raise InputError(
                f"{folder} holds {last.name}, later than {given}; choose another output_dir, or move later ones away"
            )
        return Path(given)
    if not args.resume and checkpoints(folder):
        raise InputError(f"{folder} holds checkpoints of an earlier run; choose another folder, or --resume true")
    return last_checkpoint(folder)


def staged_trainer(recipe: TrainRecipe, args: DynImgTrainingArguments, listener: SignalStop) -> StagedTrainer:
    """Build the trainer of a run on the motion world.

    Raises:
        InputError: where something in the recipe does not fit.
    """
    world, schedule = recipe.data.world, recipe.schedule
    if world is None or schedule is None:
        raise ValueError("the recipe has no world or no stages")
    if args.gradient_checkpointing:
        raise InputError("training: gradient_checkpointing is not for data.world; leave it out")
    schedule = schedule.scaled(args.motion_attention_loss, args.motion_heads_loss)
    model, processor = build_model(recipe.model, None, args)
    model = model.float()
    if recipe.model.attention is None and args.device.type == "cpu":
        model.set_attn_implementation(fast_attention.NAME)
    learner = build_learner(model, processor.tokenizer, recipe.model.path or recipe.model.weights)
    schedule.check_stage(model.config.prompt_stage if model.config.layout.num_prompt_frames else "none")
    view = View.of(model.config)
    per_step = args.gradient_accumulation_steps * args.world_size
    return make_trainer(
        StagedTrainer,
        learner,
        args,
        listener=listener,
        schedule=schedule,
        validation=ValidationBatches(world, view, processor.tokenizer),
        train_dataset=StagedDataset(world, schedule, view, processor.tokenizer, per_step),
        data_collator=take_only,
        processing_class=processor,
    )


_Trainer = TypeVar("_Trainer", bound=DynImgTrainer)


def make_trainer(kind: type[_Trainer], model: Any, args: DynImgTrainingArguments, **kwargs: Any) -> _Trainer:
    """Build a trainer, with what transformers and accelerate refuse as one line.

    Raises:
        InputError: where settings do not go together or something is not installed.
    """
    try:
        return kind(model, args, **kwargs)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"training: {one_line(error)}") from error


@contextmanager
def torch_threads(num: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    if num is not None:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(trainer: DynImgTrainer, listener: SignalStop, resumed: Path | None) -> None:
    folder = Path(str(trainer.args.output_dir))
    if trainer.args.should_save:
        discard_partial(folder)
    if resumed is not None:
        logger.info("going on from %s", resumed)
    with listener, _killed_workers_explained(folder):
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    if not trainer.stopped_by:
        with explained("the log", folder):
            trainer.save_state()


@contextmanager
def _killed_workers_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if _KILLED_WORKER.search(str(error)) is None:
            raise
        last = last_checkpoint(folder)
        kept = "there is no checkpoint yet" if last is None else f"the same command goes on from {last.name}"
        raise InputError(
            "a process that reads data was killed (out of memory?); take fewer dataloader_num_workers or a smaller "
            f"short_side; {kept}"
        ) from error


def _note_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    # As it was run, with what the command line changed; the first thing one looks for a year later.
    with written_atomically(folder / RECIPE_FILE) as file:
        file.write(f"{json.dumps(recipe, indent=2)}\n".encode())


def report_samples(dataset: Dataset, trainer: DynImgTrainer) -> dict[str, int]:
    """Count what became of the samples in all processes together; each writes those it could not use to a file.

    Every process has to call this.
    """
    status = getattr(dataset, "status", None)
    if status is None:
        return {}
    broken = list(dataset.broken())  # type: ignore[attr-defined]  # it goes with the status
    folder = Path(str(trainer.args.output_dir))
    if broken:
        with explained("the list of broken samples", folder):
            path = folder / f"broken_samples_{trainer.args.process_index}.jsonl"
            path.write_bytes(b"".join(json_bytes(row) + b"\n" for row in broken))
    if trainer.accelerator.num_processes > 1:
        # The order is another one in each epoch: a sample may have come to several of them.
        states = trainer.accelerator.gather(status.states.to(trainer.accelerator.device))
        status = status.combined(states.cpu())
    return {reason: number for reason, number in status.counts().items() if reason != "unseen"}


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


def _result(
    trainer: DynImgTrainer, listener: SignalStop, exported: Path | None, samples: Mapping[str, int]
) -> TrainResult:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainResult(
        model=exported,
        step=trainer.state.global_step,
        num_steps=trainer.state.max_steps,
        loss=losses[-1] if losses else None,
        stopped_by=trainer.stopped_by,
        received=listener.received,
        is_main=trainer.is_world_process_zero(),
        samples=samples,
    )

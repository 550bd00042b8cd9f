"""The batches of a whole run on the motion world: number i belongs to a step, and the step to a stage."""

from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .data import MotionBatch, MotionDataset, View
from .pictures import VALIDATION_SEED, training_pictures, validation_pictures
from .settings import Schedule, Stage, WorldSettings

_BESIDE = 7_919
"""Sets the seeds of batches that are drawn beside others apart from theirs."""


class StagedDataset(Dataset):
    """Give batch `index` of a run, whole, as the one sample that the trainer sees: a pure function of seed and index.

    Args:
        world: where pictures come from.
        schedule: the stages; the weights of their losses come with each batch.
        view: how the model is shown a clip.
        tokenizer: of the model.
        batches_per_step: how many batches a step takes, over all processes and accumulated parts.
    """

    def __init__(
        self,
        world: WorldSettings,
        schedule: Schedule,
        view: View,
        tokenizer: PreTrainedTokenizerBase,
        batches_per_step: int = 1,
    ) -> None:
        self.schedule, self.batches_per_step = schedule, batches_per_step
        self.pictures = training_pictures(world)
        self.parts = [
            [
                MotionDataset(
                    lesson.batch,
                    view,
                    stage.steps * batches_per_step,
                    world.seed * 97 + number + _BESIDE * rank,
                    tokenizer if lesson.losses.text else None,
                    chat_share=world.chat_share,
                    with_targets=not lesson.losses.is_text_only,
                )
                for rank, lesson in enumerate(stage.lessons.values())
            ]
            for number, stage in enumerate(schedule.stages)
        ]

    def __len__(self) -> int:
        return self.schedule.num_steps * self.batches_per_step

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw a batch: the arguments of `MotionLearner.forward`."""
        step, part = divmod(index, self.batches_per_step)
        number, within = self.schedule.locate(step)
        pictures = self.pictures.at(index)
        # Processes that wait for one another take as many tokens as each other.
        batches = [each.draw(within * self.batches_per_step + part, pictures, within) for each in self.parts[number]]
        return as_sample(batches, self.schedule.stages[number])


class ValidationBatches:
    """Give the same batches each time, over pictures that training never sees, as a stage has them.

    Args:
        world: how many pictures and batches.
        view: how the model is shown a clip.
        tokenizer: of the model.
    """

    def __init__(self, world: WorldSettings, view: View, tokenizer: PreTrainedTokenizerBase) -> None:
        self.world, self.view, self.tokenizer = world, view, tokenizer
        self._pictures = None if world.validation_batches == 0 else validation_pictures(world)

    def __len__(self) -> int:
        return self.world.validation_batches

    def of(self, stage: Stage) -> list[MotionDataset]:
        """Give the batches of each lesson of a stage: questions in their first wording, none as a turn of a chat."""
        return [
            MotionDataset(
                lesson.batch,
                self.view,
                len(self),
                VALIDATION_SEED,
                self.tokenizer if lesson.losses.text else None,
                bank=None if self._pictures is None else self._pictures.bank,
                chat_share=0.0,
                vary=False,
                with_targets=not lesson.losses.is_text_only,
            )
            for lesson in stage.lessons.values()
        ]


def as_sample(batches: list[MotionBatch], stage: Stage) -> dict[str, Any]:
    """Make a batch of each lesson of a stage the arguments of `MotionLearner.forward`."""
    first, *others = (
        {**batch.as_inputs(), "weights": dict(vars(lesson.losses))}
        for batch, lesson in zip(batches, stage.lessons.values(), strict=True)
    )
    return {**first, "beside": others[0]} if others else first


def take_only(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate: the one sample of a batch is the batch."""
    (sample,) = samples
    return sample

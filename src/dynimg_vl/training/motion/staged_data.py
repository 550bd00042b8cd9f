"""The batches of a whole run on the motion world: number i belongs to a step, and the step to a stage."""

from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .data import MotionBatch, MotionDataset, View
from .pictures import VALIDATION_SEED, training_pictures, validation_pictures
from .settings import Schedule, Stage, WorldSettings


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
            MotionDataset(
                stage.batch,
                view,
                stage.steps * batches_per_step,
                world.seed * 97 + number,
                tokenizer if stage.losses.text else None,
                chat_share=world.chat_share,
                with_targets=not stage.losses.is_text_only,
            )
            for number, stage in enumerate(schedule.stages)
        ]

    def __len__(self) -> int:
        return self.schedule.num_steps * self.batches_per_step

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw a batch: the arguments of `MotionLearner.forward`."""
        step, part = divmod(index, self.batches_per_step)
        number, within = self.schedule.locate(step)
        batch = self.parts[number].draw(within * self.batches_per_step + part, self.pictures.at(index))
        return as_sample(batch, self.schedule.stages[number])


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

    def of(self, stage: Stage) -> MotionDataset:
        """Give the batches of a stage: every question in its first wording, none as a turn of a chat."""
        return MotionDataset(
            stage.batch,
            self.view,
            len(self),
            VALIDATION_SEED,
            self.tokenizer if stage.losses.text else None,
            bank=None if self._pictures is None else self._pictures.bank,
            chat_share=0.0,
            vary=False,
            with_targets=not stage.losses.is_text_only,
        )


def as_sample(batch: MotionBatch, stage: Stage) -> dict[str, Any]:
    """Make a batch the arguments of `MotionLearner.forward`."""
    return {**batch.as_inputs(), "weights": dict(vars(stage.losses))}


def take_only(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate: the one sample of a batch is the batch."""
    (sample,) = samples
    return sample

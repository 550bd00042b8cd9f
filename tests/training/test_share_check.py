"""Broken samples that several processes found, each a few, count together."""

from types import SimpleNamespace

import pytest
import torch

from dynimg_vl.training.data.dataset import DatasetOptions, VideoTextDataset
from dynimg_vl.training.data.sample_source import open_samples
from dynimg_vl.training.data.sample_status import DataError
from dynimg_vl.training.data.share_check import CheckShareOfAll
from dynimg_vl.training.run import report_samples
from entries import entry
from runs import samples_about_clips, train_there

pytest_plugins = ["run_fixtures"]


def test_what_each_process_found_counts_once(write_mixture, processor, tmp_path):
    recipe = write_mixture(a=[entry("clip0.mp4", ("", f"{n}?", "a")) for n in range(10)])
    mine, other = (
        VideoTextDataset(open_samples(recipe), processor, DatasetOptions(allowed_share=0.1)) for _ in range(2)
    )
    accelerator = SimpleNamespace(
        num_processes=2, device="cpu", gather=lambda states: torch.cat([states, other.status.states])
    )
    check = CheckShareOfAll(mine, accelerator)
    mine.status.mark(3, "unreadable")
    other.status.mark(3, "used")  # the disk came back
    check.check()
    other.status.mark(7, "missing")
    with pytest.raises(DataError, match=r"2 of 10 samples cannot be used, over the allowed share of 0\.1"):
        check.check()
    assert mine.status.counts() == {"unseen": 9, "unreadable": 1}  # the counts of each stay its own
    trainer = SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(output_dir=str(tmp_path), process_index=0))
    assert report_samples(mine, trainer) == {"unreadable": 1, "missing": 1}
    accelerator.num_processes = 1
    check.check()


@pytest.mark.slow
def test_two_processes_end_together(recipe_of, tmp_path):
    samples = samples_about_clips(60)  # many, so that none of the broken stands in for another
    for number in range(4):  # the first batch of either process
        samples[number]["messages"][0]["content"][0]["video"] = "none.mp4"
    recipe = recipe_of(samples, per_device_train_batch_size=2, train_sampling_strategy="sequential", num_processes=2)
    said = train_there(recipe, "--data.allowed_share", 0.05, num_processes=2, expect=1)
    # Alone, a process would stop at its third.
    ends = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(ends) == 2, said[-3000:]
    assert all("4 of 60 samples cannot be used, over the allowed share of 0.05" in line for line in ends), ends
    assert not (tmp_path / "run" / "model").exists()

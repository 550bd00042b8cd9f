"""Training samples from shards: the same as from files, with frames chosen among the candidates that were kept.

Shapes: G DynImgs, N prompt frames.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...text_formats import check_types
from .annotations import Clip, Sample
from .frame_groups import FrameRequest, select_candidates, stack_groups
from .sample_source import Part
from .sample_table import SampleTable
from .shard_format import FORMAT, MANIFEST, Place, ShardInfo, decode_picture, load_info, read_record, shard_name


class ShardSamples:
    """Read the samples and frames of a folder that `dynimg-vl data build` made.

    Raises:
        InputError: where it is no such folder, or shards are missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = _read_manifest(folder)
        self._built = _built_for(manifest, folder)
        self.allowed_share = float(manifest["allowed_share"])
        self.skipped: list[dict[str, Any]] = []
        # Numbers, not objects: each process that reads would come to a copy of those, by counting its references.
        places, record_of = array("q"), array("q")
        counts: Counter[str] = Counter()

        def samples():
            for number, info in enumerate(_load_infos(folder, int(manifest["num_shards"]))):
                self.skipped += info.skipped
                for record in info.records:
                    places.extend((number, record["offset"], record["num_bytes"]))
                    clips = tuple(Clip(**clip) for clip in record["clips"])
                    for said in record["conversations"]:
                        record_of.append(len(places) // 3 - 1)
                        counts[record["source"]] += 1
                        yield Sample(tuple(said["messages"]), clips, record["source"], said["entry"])

        self._table = SampleTable(samples())
        self._places, self._record_of = np.array(places).reshape(-1, 3), np.array(record_of)
        self.parts = _parts(manifest["sources"], counts)
        if not len(self._table):
            raise InputError(f"the shards in {folder} hold no sample; see what `data check` says about the mixture")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        return self._table[index]

    def groups(
        self, index: int, num_clips: int, request: FrameRequest, rng: np.random.Generator | None
    ) -> list[np.ndarray]:
        """Select among the stored candidates and decode those; see `SampleSource`."""
        number, offset, num_bytes = self._places[self._record_of[index]].tolist()
        path = self._folder / f"{shard_name(number)}.tar"
        description, clips = read_record(path, Place(offset, num_bytes))
        result = []
        for clip, frames in list(zip(description["clips"], clips, strict=True))[:num_clips]:
            times = np.array(clip["pts_seconds"])
            groups = select_candidates(times, tuple(clip["span_seconds"]), request, rng)
            wanted = {rank for group in groups for rank in group.indices}
            result.append(stack_groups(groups, {rank: decode_picture(frames[rank], str(path)) for rank in wanted}))
        return result

    def require(self, request: FrameRequest) -> None:
        """Make sure that the shards hold what will be asked for.

        Raises:
            InputError: where they were built for other numbers of DynImgs or prompt frames, by another policy, or with
                smaller frames.
        """
        built = self._built
        if request.num_dynimgs != built.num_dynimgs or request.num_prompt_frames > built.num_prompt_frames:
            raise InputError(
                f"the shards in {self._folder} are for {built.num_dynimgs} DynImgs of {built.num_prompt_frames} prompt "
                f"frames, the model wants {request.num_dynimgs} of {request.num_prompt_frames}; build others"
            )
        if request.policy != built.policy:
            raise InputError(
                f"the shards in {self._folder} hold frames by the policy {built.policy}, the model wants "
                f"{request.policy}; build others with --policy {request.policy}"
            )
        if request.short_side > built.short_side:
            raise InputError(
                f"the shards in {self._folder} hold frames of a short side of {built.short_side} pixels, "
                f"{request.short_side} are asked for; build others with --short-side {request.short_side}, or set "
                f"data.short_side to {built.short_side}"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no shards ({MANIFEST} is missing); make them with `data build`") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT}; build the shards again")
    return manifest


def _built_for(manifest: dict[str, Any], folder: Path) -> FrameRequest:
    try:
        request = FrameRequest(**manifest["options"]["request"])
        check_types(request)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} does not say what the shards are for; build them again") from error
    return request


def _load_infos(folder: Path, num_shards: int) -> Iterator[ShardInfo]:
    """Read what stands beside each shard, one after the other: together they are all annotations."""
    missing: list[str] = []
    for number in range(num_shards):
        info = load_info(folder / f"{shard_name(number)}.json")
        if info is None:
            missing.append(shard_name(number))
        elif not missing:
            yield info
    if missing:
        raise InputError(
            f"{len(missing)} of {num_shards} shards are missing in {folder} (the first: {missing[0]}); "
            f"run `data build` again, it goes on where it stopped"
        )


def _parts(sources: list[dict[str, Any]], counts: Mapping[str, int]) -> tuple[Part, ...]:
    # Records keep the order of their sources, so that each source is one stretch of samples.
    parts: list[Part] = []
    for source in sources:
        first = parts[-1].stop if parts else 0
        parts.append(Part(source["name"], first, first + counts[source["name"]], float(source["weight"])))
    return tuple(parts)

"""Write videos.json: what ffprobe says about the clips of a folder.

    python tests/golden/make_videos.py ../shared/videos

For every clip it runs

    ffprobe -v error -select_streams v:0 -show_entries \
        packet=pts,flags,size:stream=codec_name,width,height,sample_aspect_ratio,time_base,duration:\
stream_side_data=rotation:format=duration -of json CLIP

and keeps, in presentation order, the times in ticks and the numbers of the packets flagged K. Packets flagged D
(discarded by an edit list) show nothing and are left out. Where packets lack times (MPEG-PS, AVI), the decoded frames
tell them: `-show_entries frame=best_effort_timestamp,key_frame`.
"""

import json
import subprocess
import sys
from pathlib import Path

ENTRIES = (
    "packet=pts,flags,size:stream=codec_name,width,height,sample_aspect_ratio,time_base,duration"
    ":stream_side_data=rotation:format=duration"
)


def probe(path: Path) -> dict:
    """Ask ffprobe about one clip."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", ENTRIES, "-of", "json", str(path)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    stream = answer["streams"][0]
    packets = [packet for packet in answer["packets"] if "D" not in packet["flags"] and int(packet["size"])]
    if all("pts" in packet for packet in packets):
        packets.sort(key=lambda packet: packet["pts"])
    else:
        command[command.index(ENTRIES)] = "frame=best_effort_timestamp,key_frame"
        frames = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["frames"]
        times = [frame.get("best_effort_timestamp") for frame in frames]
        times = [2 * times[n - 1] - times[n - 2] if time is None else time for n, time in enumerate(times)]
        packets = [{"pts": time, "flags": "K" * frame["key_frame"]} for time, frame in zip(times, frames, strict=True)]
    ratio = stream.get("sample_aspect_ratio", "1:1")
    return {
        "codec": stream["codec_name"],
        "width": stream["width"],
        "height": stream["height"],
        "rotation": next((int(s["rotation"]) for s in stream.get("side_data_list", []) if "rotation" in s), 0),
        "sample_aspect_ratio": "1:1" if ratio in ("N/A", "0:1") else ratio,
        "duration": float(stream.get("duration", answer["format"].get("duration", "nan"))),
        "time_base": stream["time_base"],
        "pts": [packet.get("pts") for packet in packets],
        "iframes": [number for number, packet in enumerate(packets) if "K" in packet["flags"]],
    }


def main() -> None:
    """Probe all clips and write the table beside this script."""
    folder = Path(sys.argv[1])
    clips = sorted(path for path in folder.iterdir() if path.suffix != ".tsv")
    lines = [f"{json.dumps(clip.name)}: {json.dumps(probe(clip), separators=(',', ':'))}" for clip in clips]
    Path(__file__).with_name("videos.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

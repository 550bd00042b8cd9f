"""The shapes of generated videos that several tests go through, by file name; values are arguments of `write_video`."""

from fractions import Fraction

JITTER = [n * 30 + (n % 3) * 9 for n in range(48)]  # milliseconds
OPEN_GOP = {"x264-params": "open-gop=1"}
OPEN_GOP_HEVC = {"x265-params": "keyint=24:min-keyint=24:bframes=3:open-gop=1:scenecut=0:log-level=none"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=24"}  # no I-frames but the first: columns are refreshed in turn

SHAPES = {
    "closed.mp4": {},
    "b_frames.mp4": {"b_frames": 3},
    "b_frames.mkv": {"b_frames": 3},
    "b_frames.ts": {"b_frames": 2},
    "open_gop.mp4": {"b_frames": 3, "options": OPEN_GOP},
    "open_gop.ts": {"b_frames": 3, "options": OPEN_GOP},
    "vfr.mp4": {"times": JITTER},
    "vfr.mkv": {"times": JITTER, "b_frames": 2},
    "late.mkv": {"times": [5000 + n * 40 for n in range(48)]},
    "one_frame.mp4": {"num_frames": 1},
    "audio_first.mp4": {"audio_first": True},
    "audio_first.ts": {"audio_first": True, "b_frames": 2},
    "rotated.mp4": {"rotation": -90},
    "upside_down.mov": {"rotation": 180},
    "wide_pixels.mp4": {"sample_aspect_ratio": Fraction(4, 3)},
    "wide_pixels.ts": {"sample_aspect_ratio": Fraction(4, 3), "b_frames": 2},
    "wide_pixels.mkv": {"sample_aspect_ratio": Fraction(12, 11)},
    "tall_pixels.mpg": {"codec": "mpeg2video", "fps": 25, "sample_aspect_ratio": Fraction(8, 9), "b_frames": 2},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "h264.avi": {},
    "hevc.mp4": {"codec": "libx265", "b_frames": 2},
    "hevc_open_gop.mp4": {"codec": "libx265", "options": OPEN_GOP_HEVC},
    "refresh.mkv": {"options": REFRESH, "b_frames": 2},
    "refresh.ts": {"options": REFRESH},
    "interlaced.ts": {"options": {"x264-params": "interlaced=1"}, "size": (96, 96), "b_frames": 2},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}, "gop_size": 24},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "prores.mov": {"codec": "prores_ks"},
    "mjpeg.avi": {"codec": "mjpeg"},
    "flv1.flv": {"codec": "flv"},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "full_colour.mp4": {"pixel_format": "yuv444p", "b_frames": 2},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "one_gop.mp4": {"gop_size": 250, "b_frames": 3},
}

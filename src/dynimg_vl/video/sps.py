"""The sample aspect ratio in the header of an H.264 stream, which FFmpeg only reports once it has decoded a frame."""

from fractions import Fraction

_SQUARE = Fraction(1)
_TABLE = (  # Table E-1 of ITU-T H.264, aspect_ratio_idc 1 to 16
    *((1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11)),
    *((80, 33), (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1)),
)
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_EXTENDED_SAR = 255
_MAX_OFFSETS = 255  # of num_ref_frames_in_pic_order_cnt_cycle, 7.4.2.1.1; a crafted header of 1 MB took 9 s
_MAX_ZEROS = 32  # of ue(v), 9.1: the largest number has so many; crafted data may have megabytes, read bit by bit


def sample_aspect_ratio(data: bytes) -> Fraction:
    """Read the sample aspect ratio from `extradata` or a packet of H.264, avcC or Annex B; 1 where there is none."""
    try:
        for unit in _sequence_parameter_sets(data):
            return _parse(unit)
    except IndexError:  # cut off in the middle
        pass
    return _SQUARE


def _sequence_parameter_sets(data: bytes) -> list[bytes]:
    if data[:1] == b"\x01":  # avcC: version, profile, compatibility, level, length size, number of sets
        count, offset, units = data[5] & 31, 6, []
        for _ in range(count):
            length = int.from_bytes(data[offset : offset + 2], "big")
            units.append(data[offset + 2 : offset + 2 + length])
            offset += 2 + length
        return units
    units = data.split(b"\x00\x00\x01")[1:]
    return [unit for unit in units if unit and unit[0] & 31 == 7]


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.data = data.replace(b"\x00\x00\x03", b"\x00\x00")  # emulation prevention
        self.position = 0

    def read(self, count: int) -> int:
        value = 0
        for _ in range(count):
            byte = self.data[self.position >> 3]
            value = value << 1 | byte >> (7 - (self.position & 7)) & 1
            self.position += 1
        return value

    def golomb(self) -> int:
        zeros = 0
        while self.read(1) == 0:
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise IndexError("no number of this standard is so long")
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        value = self.golomb()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def _parse(unit: bytes) -> Fraction:
    """Walk through a sequence parameter set (7.3.2.1.1) up to the aspect ratio in its VUI (E.1.1)."""
    bits = _Bits(unit[1:])
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    bits.golomb()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        _skip_high_profile(bits)
    bits.golomb()  # log2_max_frame_num
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        num_offsets = bits.golomb()
        if num_offsets > _MAX_OFFSETS:
            raise IndexError("no cycle of this standard is so long")
        for _ in range(num_offsets):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    bits.read(1)
    bits.golomb()  # width and height in macroblocks
    bits.golomb()
    if not bits.read(1):  # frame_mbs_only
        bits.read(1)
    bits.read(1)  # direct_8x8_inference
    if bits.read(1):  # cropping
        for _ in range(4):
            bits.golomb()
    if not (bits.read(1) and bits.read(1)):  # VUI present, aspect ratio present
        return _SQUARE
    code = bits.read(8)
    width, height = (bits.read(16), bits.read(16)) if code == _EXTENDED_SAR else _TABLE[code - 1] if code else (1, 1)
    return Fraction(width, height) if width and height else _SQUARE


def _skip_high_profile(bits: _Bits) -> None:
    chroma_format = bits.golomb()
    if chroma_format == 3:
        bits.read(1)
    bits.golomb()  # bit depths
    bits.golomb()
    bits.read(1)
    if not bits.read(1):  # scaling matrices present
        return
    for rank in range(12 if chroma_format == 3 else 8):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if rank < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last

"""Videos that come by address: fetched only when the caller says so, and never more than a limit."""

import base64
import http.client
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError, VideoError

MAX_DOWNLOAD_BYTES = 2**29
"""512 MiB: an hour of ordinary web video."""

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 2**20


def resolve_source(video: Any, *, allow_urls: bool = False, max_bytes: int = MAX_DOWNLOAD_BYTES) -> Any:
    """Turn an http(s) address or a data URL into the bytes of its file; leave everything else as it is.

    Args:
        video: anything that stands for a video.
        allow_urls: whether addresses may be opened. Off by default: a text that names an address would otherwise make
            this machine open it.
        max_bytes: the largest file to accept.

    Raises:
        InputError: where an address is not allowed or of another kind.
        VideoError: where it cannot be read or is too large.
    """
    if not isinstance(video, str) or ":" not in video:
        return video
    try:
        scheme = urlsplit(video).scheme.lower()
    except ValueError as error:
        raise InputError(f"{video} is no address: {error}; give a path or an http(s) address") from error
    if scheme == "data":
        return _decode(video, max_bytes)
    if "://" not in video:
        return video
    if scheme not in ("http", "https"):
        raise InputError(f"videos cannot be read from {scheme}:// addresses; give a path or an http(s) address")
    if not allow_urls:
        raise InputError(f"{video} is an address; pass allow_urls=True to download it, or give a path")
    return _download(video, max_bytes)


def _decode(url: str, max_bytes: int) -> bytes:
    header, _, payload = url.partition(",")
    if not header.endswith(";base64"):
        raise VideoError("a data URL must be base64: data:video/mp4;base64,...")
    if len(payload) * 3 // 4 > max_bytes:
        raise VideoError(f"the data URL holds more than {max_bytes} bytes")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:  # of characters beyond ASCII, a plain one
        raise VideoError(f"the data URL is not base64: {error}") from error


def _download(url: str, max_bytes: int) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "dynimg-vl"})
    chunks, size = [], 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            if urlsplit(response.url).scheme not in ("http", "https"):
                raise VideoError(f"{url} leads to {response.url}, which is not http(s)")
            while chunk := response.read(CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise VideoError(f"{url} holds more than {max_bytes} bytes")
                chunks.append(chunk)
            if response.length:  # what is still to come of the length that was announced
                raise VideoError(f"{url} broke off after {size} bytes")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{url} cannot be downloaded: {error}") from error
    return b"".join(chunks)

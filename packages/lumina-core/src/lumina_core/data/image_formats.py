"""Formats of image files that are read by Pillow, which the core itself does not need, and their suffixes."""

from __future__ import annotations

from PIL import features

_HAS_AVIF = "avif" in features.modules and bool(features.check("avif"))  # unknown to Pillow before 11.3
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(("AVIF",) if _HAS_AVIF else ()))
"""Formats that Pillow decodes within this process; EPS, for example, would start another program."""
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", *((".avif", ".avifs") if _HAS_AVIF else ()),
)  # fmt: skip
UNREAD_SUFFIXES = (
    *(() if _HAS_AVIF else (".avif", ".avifs")), ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".svg", ".psd",
    ".xcf", ".tga", ".ico", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
)  # fmt: skip
"""Suffixes of image files that are not read."""

"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

HEAD = 512
"""Bytes that :func:`kind_of` looks at."""

_SIGNATURES: tuple[tuple[str, int, tuple[bytes, ...]], ...] = (
    ("a gzip archive", 0, (b"\x1f\x8b",)),
    ("a bzip2 archive", 0, (b"BZh",)),
    ("an xz archive", 0, (b"\xfd7zXZ\0",)),
    ("a Zstandard archive", 0, (b"\x28\xb5\x2f\xfd",)),
    ("a 7z archive", 0, (b"7z\xbc\xaf\x27\x1c",)),
    ("a RAR archive", 0, (b"Rar!\x1a\x07",)),
    ("a zip archive", 0, (b"PK\x03\x04", b"PK\x05\x06")),
    ("a NIfTI file", 344, (b"n+1\0",)),
    ("a NIfTI file", 4, (b"n+2\0",)),
    ("the header of a NIfTI pair (.hdr and .img)", 344, (b"ni1\0",)),
    ("the header of a NIfTI pair (.hdr and .img)", 4, (b"ni2\0",)),
    ("a DICOM file", 128, (b"DICM",)),
    ("a DICOM file", 0, (b"\x08\0\0\0UL\x04\0", b"\x08\0\x05\0CS")),
    ("a PNG file", 0, (b"\x89PNG\r\n\x1a\n",)),
    ("a JPEG file", 0, (b"\xff\xd8\xff",)),
    ("a TIFF file", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("a GIF file", 0, (b"GIF87a", b"GIF89a")),
    ("a WebP file", 8, (b"WEBP",)),
    ("a JPEG 2000 file", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("a JPEG XL file", 0, (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    ("an AVIF file", 4, (b"ftypavif", b"ftypavis")),
    ("a HEIF file", 4, (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")),
    ("an MPEG-4 file", 4, (b"ftyp",)),
    ("a Photoshop file", 0, (b"8BPS",)),
    ("an OpenEXR file", 0, (b"\x76\x2f\x31\x01",)),
    ("a PGM or PPM file", 0, tuple(b"P%d%c" % (n, end) for n in (2, 3, 5, 6) for end in b"\n\r ")),
    ("an HDF5 file", 0, (b"\x89HDF\r\n\x1a\n",)),
    ("a NetCDF file", 0, (b"CDF\x01", b"CDF\x02")),
    ("a MATLAB file", 0, (b"MATLAB 5.0",)),
    ("a NumPy file", 0, (b"\x93NUMPY",)),
    ("an NRRD file", 0, (b"NRRD000",)),
    ("a MetaImage file", 0, (b"ObjectType", b"NDims")),
    ("a PDF file", 0, (b"%PDF-",)),
    ("a PostScript file", 0, (b"%!PS",)),
    ("an SQLite file", 0, (b"SQLite format 3\0",)),
    ("a companion file of macOS (`._`), not the image itself", 0, (b"\0\x05\x16\x07",)),
    ("a pointer of Git LFS, not the file itself", 0, (b"version https://git-lfs",)),
)
_MARKUP = (
    ("an HTML page", (b"<!doctype html", b"<html")),
    ("an XML file", (b"<?xml",)),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""sizes of the second header of a BMP file, whose first two letters alone would fit many texts"""


def kind_of(head: bytes) -> str | None:
    """The kind of a file with its article, such as ``a TIFF file``; None where its first bytes say nothing.

    Args:
        head: the first :data:`HEAD` bytes, or the whole file where it is shorter.
    """
    for kind, at, signatures in _SIGNATURES:
        if head[at:].startswith(signatures):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for kind, beginnings in _MARKUP:
        if text.startswith(beginnings):
            return kind
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "a BMP file"
    return None

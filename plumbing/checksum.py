"""The checksum of a file: was it downloaded whole, and are two images the same?
"""
import hashlib


def file_md5(path, length=-1):
    """-> the MD5 of a file, or of its first `length` bytes, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.md5(file.read(length), usedforsecurity=False).hexdigest()

"""A figure as a PNG file: a short name, written whole or not at all, and what it shows in words.

The words are JSON in the file's text chunk "Description": {"title", "text", "pieces"}; pieces are
[left, top, width, height, caption] of the pictures that a sheet is made of, px.
"""
import hashlib
import io
import json
import re
from os.path import join
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from plumbing.command import readable
from plumbing.run_folder import write_whole


LETTERS = 50                                         # of a name: with four bytes each they fit any disk


class Figure(NamedTuple):
    """name: of its file; text: its caption."""
    name: str
    picture: Image.Image
    text: str

    def alt(self):
        """What is to be seen, in words."""
        return f"{self.text}. {self.picture.info['key']}"


def picture_name(name):
    """-> the file's name. A digest stands for the letters that it cannot hold, so that no two names meet."""
    short = re.sub(r"[^\w-]", "_", name)[:LETTERS]
    if short != name:
        short += "-" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return short + ".png"


def save_picture(picture, folder, name, title="", text=""):
    """Write a PIL image to a folder; its pieces are those in info["pieces"]."""
    about = {"title": title, "text": text, "pieces": picture.info.get("pieces", [])}
    words = PngInfo()
    words.add_text("Description", json.dumps(about))
    write_whole(join(folder, picture_name(name)), png(picture, words))


def png(picture, words=None):
    """-> the bytes of a PNG. Level 3 takes 0.4 of the time of zlib's default, and 6 % more space."""
    data = io.BytesIO()
    picture.save(data, "png", pnginfo=words, compress_level=3)
    return data.getvalue()


def read_picture(path):
    """-> its title, its text, and its pieces, row by row: [[(picture, caption)]].

    A file without such words, such as an older run's, or with impossible ones, is one piece. ValueError for
    what is no picture."""
    with readable(path, "picture"), Image.open(path, formats=["PNG"]) as picture:
        picture.load()
    try:
        about = json.loads(picture.text["Description"])
        rows = {}                                    # {top: pieces}
        for left, top, width, height, caption in about["pieces"]:
            piece = picture.crop((left, top, left + width, top + height))
            rows.setdefault(top, []).append((piece, str(caption)))
        return str(about["title"]), str(about["text"]), list(rows.values()) or [[(picture, "")]]
    except (KeyError, TypeError, ValueError, Image.DecompressionBombError):
        return "", "", [[(picture, "")]]

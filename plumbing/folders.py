"""The image files below a folder, and what else lies there.
"""
import os
import re
from collections import Counter
from functools import cache
from os.path import commonpath, dirname, exists, isfile, islink, join, realpath, relpath, splitext

from plumbing.formats import is_image, without_ending
from plumbing.words import DRAWN, LITTER, SHOWN


# A mask is X_mask.png, X-d.png (Herlev) or mask_X.png beside X.png, X_image.png or image_X.png, or it lies in
# the folder masks beside the folder images. What is left of a name without these words is in the groups 1, 2.
MASK = re.compile(rf"(?i)\A(?:(.+?)(?:(?:[ _.(-]*{DRAWN})+\)?|-d)|{DRAWN}(?:[ _-]|(?=\d))(.+)|{DRAWN})\Z")
IMAGE = re.compile(rf"(?i)\A(?:(.+?)(?:[ _.-]*{SHOWN}|[ _.-]+(?:flair|t[12](?:[cwfn]|ce|gd)?|adc|dwi|ct|mr))"
                   rf"|{SHOWN}(?:[ _.-]|(?=\d))(.+)|{SHOWN}(?:t[rs])?|ct|mr|pngs?)\Z")
MASK_FOLDER = re.compile(rf"(?i)(?:.+[ _-])?{DRAWN}|\w+masks?|masks?_\w+")
IMAGE_FOLDER = re.compile(rf"(?i)(?:.+[ _-])?(?:{SHOWN}|jpe?gs?|pngs?)(?:[ _-]?(?:\d+|t[rs]|train(?:ing)?"
                          r"|test|val))?|\w+images?")
BARE_IMAGE_FOLDER = re.compile(rf"(?i){SHOWN}(?:t[rs])?|jpe?gs?|pngs?")          # without another word


def look_through(folder):
    """-> the paths of all image files below a folder, in order, and a Counter of what is left out.

    Only regular files are images. Links are followed, but for those to a folder above, which would lead
    round in circles. Left out, by their endings or by what they are: other files, broken links, pipes,
    hidden files and folders."""
    paths = []
    left_out = Counter()

    def cannot_be_opened(error):
        left_out["folders that cannot be opened"] += 1

    for place, subfolders, names in os.walk(folder, onerror=cannot_be_opened, followlinks=True):
        before = len(paths)
        for name in sorted(names):
            if LITTER.fullmatch(name):                             # a DICOMDIR begins as images do
                continue
            reason = unreadable(join(place, name), name)
            if reason:
                left_out[reason] += 1
            else:
                paths.append(join(place, name))
        inner = sorted(name for name in subfolders if not LITTER.fullmatch(name))
        if before == len(paths) and not inner:
            left_out["folders without images"] += 1
        subfolders.clear()                                         # os.walk goes on with what is in it
        for name in inner:
            if name.startswith("."):
                left_out["hidden folders"] += 1
            elif leads_up(join(place, name), folder):
                left_out["links to a folder above"] += 1
            else:
                subfolders.append(name)
    return paths, left_out


def leads_up(path, folder):
    """Is it a link to one of the folders between `folder` and it, or to one that holds them?"""
    target = realpath(path)
    place = path
    while islink(path) and len(place) > len(folder):
        place = dirname(place)
        if commonpath([target, realpath(place)]) == target:
            return True
    return False


def unreadable(path, name):
    """-> why a directory entry is no image file, None if it is one."""
    hidden = name.startswith(".")
    if not hidden and is_image(path):
        return None
    if not isfile(path):
        return "pipes, sockets and devices" if exists(path) else "broken links"
    if hidden:
        return "hidden files"
    return splitext(name)[1].lower() or "files without an ending"


# -----------------------------------------------------------------------------
# masks


def without_masks(folder):
    """The same as look_through, without the masks of other images, whose number is counted too."""
    paths, left_out = look_through(folder)
    keys_of = {path: mask_keys(relpath(path, folder)) for path in paths}
    shown = set()
    for keys, is_drawn in keys_of.values():
        if not is_drawn:
            shown |= keys
    images = []
    for path, (keys, is_drawn) in keys_of.items():
        if is_drawn and shown & keys:
            left_out["masks or thumbnails beside their images"] += 1
        else:
            images.append(path)
    return images, left_out


def mask_keys(path):
    """-> the keys that an image shares with its masks; does the path have a word for a mask?

    Keys are the path without the words for masks and images, and the folders that hold one called so. A class
    may be called mask: it is none without an image of such a key."""
    parts = without_ending(path).split(os.sep)
    bare_parts, words = zip(*map(without_words, parts))
    pattern = MASK_FOLDER if any(words) else IMAGE_FOLDER
    keys = {join(*bare_parts)}
    for depth, part in enumerate(parts[:-1]):
        if pattern.fullmatch(part):
            keys.add(join(*parts[:depth], ""))
    return keys, any(words)


@cache
def without_words(name):
    """-> the name of a file or folder without the words for masks and images; is there one for masks?"""
    unmasked = MASK.sub(r"\1\2", name)
    return IMAGE.sub(r"\1\2", unmasked), unmasked != name


# -----------------------------------------------------------------------------
# in words


def left_out_note(paths, left_out):
    """-> a line about what is left out, in a list; [] where nothing is."""
    if not left_out:
        return []
    counts = ", ".join(f"{what} {count}" for what, count in left_out.most_common())
    left_count = left_out.total()
    return [f"{left_count} of {left_count + len(paths)} files are left out ({counts})"]

"""The image files below a folder, and what else lies there.
"""
import os
import re
from collections import Counter
from os.path import commonpath, dirname, exists, isfile, islink, join, realpath, split, splitext

from plumbing.formats import is_image, without_ending


# what operating systems and notebooks leave behind, and nobody wants to hear of
LITTER = re.compile(r"(?i)\._.*|dicomdir|\.ds_store|thumbs\.db|desktop\.ini|\.ipynb_checkpoints|__macosx"
                    r"|@eadir|\$recycle\.bin|\.git.*|\.directory|\.trash.*")
# outlines that readers or programs drew, and thumbnails: X_mask.png, X-d.png (Herlev) or mask_X.png beside
# X.png, X_image.png or image_X.png, or the folder masks beside the folder images
DRAWN = (r"(?:(?:binary[ _-]?)?masks?|msks?|segs?|segmentations?|superpixels|annot?(?:ation)?s?|labels?"
         r"|contours?|lesions?|vessels?|outlines?|overlays?|rois?|heat[ _-]?maps?|pred(?:iction)?s?|ground"
         r"[ _-]?truths?|gt|thumb(?:nail)?s?|manual|(?:1st|2nd)[ _-]?(?:ho|manual)|(?:grad[ _-]?)?cams?"
         r"|saliency|annotated|b(?:ounding)?[ _-]?box(?:es)?)")
SHOWN = r"(?:images?|imgs?|pictures?|photos?|scans?|orig(?:inal)?s?|inputs?)"
FURTHER = r"(?:[ _-]?images?|[ _-]?(?:dir|png|\d+)|t[rs])?"        # of folders: images_512, img_dir, imagesTr
MASK = re.compile(rf"(?i)(.+?)(?:(?:[ _.(-]*{DRAWN})+(?:[ _-]?\d+)?\)?|-d)|{DRAWN}(?:[ _-]|(?=\d))(.+)")
MASK_FOLDER = re.compile(rf"(?i)(?:.+[ _-])?{DRAWN}{FURTHER}")
IMAGE = re.compile(rf"(?i)(.+?)[ _.-]+{SHOWN}|{SHOWN}(?:[ _.-]|(?=\d))(.+)")
IMAGE_FOLDER = re.compile(rf"(?i)(.+[ _-])?{SHOWN}{FURTHER}|jpe?gs?|pngs?")


def without_masks(folder):
    """The same as look_through, without the masks of other images."""
    paths, left_out = look_through(folder)
    return leave_out_masks(folder, paths, left_out), left_out


def look_through(folder):
    """-> the paths of all image files below a folder, in order, and a Counter of what is left out.

    Only regular files are images. Links are followed, but for those to a folder above, which would lead
    round in circles. Left out, by their endings or by what they are: other files, broken links, pipes,
    hidden files and folders."""
    paths, left_out = [], Counter()

    def cannot_be_opened(error):
        left_out["folders that cannot be opened"] += 1

    for place, subfolders, names in os.walk(folder, onerror=cannot_be_opened, followlinks=True):
        before = len(paths)
        for name in sorted(names):
            reason = unreadable(join(place, name), name)
            if not reason:
                paths.append(join(place, name))
            elif not LITTER.fullmatch(name):
                left_out[reason] += 1
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
    target, place = realpath(path), path
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


def leave_out_masks(folder, paths, left_out):
    """-> the paths below the folder that are no masks of others, whose number goes into left_out."""
    stems = set(map(without_ending, paths))
    for place, name in map(split, list(stems)):
        stems.add(join(place, bare_name(IMAGE, name)))
    holders = set()                                                # of folders called images
    for place in set(map(dirname, paths)):
        while len(place) > len(folder):
            place, name = split(place)
            if IMAGE_FOLDER.fullmatch(name):
                holders.add(place)
    images = [path for path in paths if not is_mask(path, folder, stems, holders)]
    if len(images) < len(paths):
        left_out["masks or thumbnails beside their images"] += len(paths) - len(images)
    return images


def bare_name(pattern, name):
    """The name of a file or folder without the word of MASK or IMAGE, or the name where it has none."""
    match = pattern.fullmatch(name)
    if match is None:
        return name
    return match[1] or match[2]


def is_mask(path, folder, stems, holders):
    """Is there an image without the word for a mask in its name, in its folder or in one beside it?

    stems: of all images, with and without the word for an image. A class may be called mask: a folder of that
    name counts only beside a folder called images, or of its own name without the word, or inside the folder
    of the images themselves."""
    place, name = split(without_ending(path))
    bare = bare_name(MASK, name)
    if bare != name and join(place, bare) in stems:
        return True
    inner = ""                                                     # the folders between
    while len(place) > len(folder):
        place, word = split(place)
        if MASK_FOLDER.fullmatch(word):
            namesakes = {join(place, inner, name), join(place, inner, bare)}
            if word != bare_name(MASK, word):
                namesakes.add(join(place, bare_name(MASK, word), inner, name))
            if place in holders or namesakes & stems:
                return True
        inner = join(word, inner)
    return False


# -----------------------------------------------------------------------------
# in words


def left_out_note(paths, left_out):
    """-> a line about what is left out, in a list; [] where nothing is."""
    if not left_out:
        return []
    counts = ", ".join(f"{what} {count}" for what, count in left_out.most_common())
    left_count = sum(left_out.values())
    return [f"{left_count} of {left_count + len(paths)} files are left out ({counts})"]

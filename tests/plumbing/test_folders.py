"""plumbing/folders.py: only regular image files count, links are followed, masks are left out, and what is left out is counted."""
import os
import shutil
import socket

import pytest

from plumbing.folders import left_out_note, look_through, without_masks
from tests.plumbing.small_tables import write


def relative(folder, paths):
    return [os.path.relpath(path, folder) for path in paths]


def test_surprises_are_skipped_and_counted(tmp_path, monkeypatch):
    """A pipe, a socket, a link to a device, a broken link, links that lead round, hidden files and folders; litter stays silent."""
    write(tmp_path, "c/notes.txt", "x", images=("c/a/1.png", "c/a/2.PNG", "c/b/3.png", "c/.cache/4.png", "c/b/.5.png", "c/a/._1.png",
                                                "c/.ipynb_checkpoints/6.png", "c/__MACOSX/a/._7.png", "c/b/Thumbs.db.png", "elsewhere/8.png"))
    folder = tmp_path / "c"
    os.rename(folder / "b/Thumbs.db.png", folder / "b/Thumbs.db")
    (folder / "b/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    os.mkfifo(folder / "a/pipe.png")
    with socket.socket(socket.AF_UNIX) as pipe:
        monkeypatch.chdir(folder / "a")                                     # such a path may have 108 bytes only
        pipe.bind("socket.png")
    for link, target in (("a/zero.png", "/dev/zero"), ("a/gone.png", "/nowhere"), ("a/self.png", "self.png"), ("a/up", ".."), ("a/root", "/"),
                         ("b/link.png", "../a/1.png"), ("d", "../elsewhere"), ("../elsewhere/back", "../c")):
        os.symlink(target, folder / link)
    paths, left_out = look_through(str(folder))
    assert relative(folder, paths) == ["a/1.png", "a/2.PNG", "b/3.png", "b/link.png", "d/8.png"]
    assert left_out == {"pipes, sockets and devices": 3, "broken links": 2, "links to a folder above": 3, "hidden files": 1, "hidden folders": 1,
                        ".txt": 1}
    assert left_out_note(paths, left_out)[0].startswith("11 of 16 files are left out (pipes, sockets and devices 3, ")


def test_endings_are_counted(tmp_path):
    """The usual endings that are not read, and files without one."""
    write(tmp_path, "c/a.gif", "x", images=("c/1.png",))
    for name in ("b.gif", "c.GIF", "d.jfif", "README"):
        (tmp_path / "c" / name).write_text("x")
    assert left_out_note(*look_through(str(tmp_path / "c"))) == [
        "5 of 6 files are left out (.gif 3, files without an ending 1, .jfif 1)"]
    assert left_out_note([], {}) == []


@pytest.mark.parametrize("images, masks", (
    (("x/benign (1).png", "x/b.png"), ("x/benign (1)_mask.png", "x/benign (1)_mask_1.png", "x/b-seg.bmp")),        # BUSI
    (("COVID/images/1.png",), ("COVID/masks/1.png",)),                                                             # COVID-19 Radiography
    (("images/DR/1.png", "images/NoDR/1.png"), ("masks/DR/1.png", "masks/NoDR/1.png")),
    (("IMG/1.png",), ("Ground Truth/1_x.png",)),
    (("a/1.png",), ("a/masks/1.png",)),
    (("x/a_1.png",), ("x/a_1_label.png", "x/mask_a_1.png", "x/a_1mask.png", "x/a_1 (mask).png", "x/a_1_1stHO.png", "x/a_1_binary_mask.png",
                      "x/a_1_manual1.png", "x/a_1_overlay.png", "x/a_1_GroundTruth.png")),
    (("x/1.png",), ("x/1_segm.png", "x/1_maske.png", "x/1_掩膜.png", "x/1_trimap.png", "x/1_mask_left.png")), (("bilder/1.png",), ("masken/1.png",)),
    (("JPEGImages/1.png", "CXR_png/2.png"), ("SegmentationClass/x.png", "ManualMask/leftMask/2.png")), (("raw/1.png", "input/2.png"), ("labels/1.png", "target/2.png")),
    (("n/1-001.bmp",), ("n/1-001-d.bmp",)),                                                                        # Herlev
    (("imagesTr/1.png",), ("labelsTr/1.png",)), (("images/1.png",), ("1st_manual/1_manual1.png", "label_images/1.png", "ROI/1.png")),
    (("x/img1.png", "x/2_image.png", "x/scan_3.png"), ("x/mask1.png", "x/2_mask.png", "x/msk_3.png", "x/2_mask_contour.png")),
    (("benign/1.png", "b/1.png", "c/2.png"), ("benign_mask/1.png", "b GT/1.png", "c/masks/2_mask.png")),
    (("images_512/1.png",), ("masks_512/1.png",)), (("case1/image.png",), ("case1/mask.png",)), (("img/1.png",), ("label_png/1.png",)),
    (("a/1.png", "a/masks/2.png", "skin_lesion/3.png", "skin/4.png"), ()),
    (("mask/1.png", "nomask/1.png", "mask/2_mask.png"), ()),                                                       # a class called mask
    (("with_mask/1_mask.png", "without_mask/1.png"), ()),
    (("images/lesion/1.png", "images/normal/1.png"), ()),                                                          # a class called lesion
    (("x/5.png", f"x/{'binarymasks' * 20}x.png"), ("x/5_binary.png",)),                      # no endless search
))
def test_masks_are_told_from_images(images, masks, tmp_path):
    """By their names beside the image's, and by folders beside the images' folder."""
    write(tmp_path, "t.txt", "x", images=images + masks)
    paths, left_out = without_masks(str(tmp_path))
    assert sorted(relative(tmp_path, paths)) == sorted(images)
    assert left_out["masks or thumbnails beside their images"] == len(masks)


def test_masks_of_volumes_are_told_from_them(tmp_path):
    """An ending may have two parts."""
    for image, mask in (("1", "1_seg"), ("volume-1", "segmentation-1"), ("x/imaging", "x/segmentation"), ("B_flair", "B_seg"), ("s/ct", "s/segmentations/liver")):
        shutil.rmtree(tmp_path)
        for name in (image, mask):
            os.makedirs(os.path.dirname(tmp_path / name), exist_ok=True)
            (tmp_path / f"{name}.nii.gz").touch()
        assert relative(tmp_path, without_masks(str(tmp_path))[0]) == [f"{image}.nii.gz"]

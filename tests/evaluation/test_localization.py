"""Boxes against maps: reading, overlap, the two numbers, and their means."""
import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluate
import train
from evaluation.localization import find_boxes, finding_maps, inside, map_title, read_boxes, score_finding, score_maps
from plumbing import simulate
from plumbing.cohort import Cohort, Reading


def cohort(tmp_path, names, size=(80, 40)):
    for name in names:
        Image.new("L", size).save(tmp_path / name)
    return Cohort("c", [], ["p"] * len(names), [str(tmp_path / name) for name in names], {})


def table(tmp_path, *lines):
    with open(tmp_path / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows([line.split(",") for line in lines])
    return str(tmp_path / "boxes.csv")


def test_boxes_are_shares_of_their_image(tmp_path):
    """Several boxes of a label come together; other images and labels are left out."""
    films = cohort(tmp_path, ["a.png", "b.png"])
    path = table(tmp_path, "image,label,x0,y0,x1,y1", "images/a.png,Edema,8,4,40,20", "a.png,Edema,0,0,80,40", "c.png,Edema,0,0,1,1",
                 "b.png,Mass,0,0,1,1", "b.png,Nodule,20,10,40,20")
    boxes = read_boxes(path, films, ("Nodule", "Edema"))
    assert {i: list(of) for i, of in boxes.items()} == {0: [1], 1: [0]}
    np.testing.assert_allclose(boxes[0][1], [[.1, .1, .5, .5], [0, 0, 1, 1]])
    np.testing.assert_allclose(boxes[1][0], [[.25, .25, .5, .5]])
    spelled = table(tmp_path, "image,label,x0,y0,x1,y1", "a.png,edema,8,4,40,20", "a.png,EDEMA ,0,0,80,40", "b.png,edema_of_lung,0,0,9,9")
    again = read_boxes(spelled, films, ("Nodule", "Edema"))        # another spelling of a label is that label
    np.testing.assert_array_equal(again.pop(0)[1], boxes[0][1])
    assert again == {}
    dotted = cohort(tmp_path, ["1.2.840.7.png"])                   # a table without endings: .7 is none
    assert read_boxes(table(tmp_path, "image,label,x0,y0,x1,y1", "1.2.840.7,Edema,8,4,40,20"), dotted, ("Edema",))


@pytest.mark.parametrize("fit, shares", (("stretch", [.5, .25, .75, .5]), ("pad", [.5, .375, .75, .5]), ("crop", [.5, .25, 1, .5])))
def test_boxes_are_where_the_model_sees_them(tmp_path, fit, shares):
    """A film of 80 x 40 px for a square model; a box in the part that crop cuts off is left out."""
    films = cohort(tmp_path, ["a.png", "b.png"])
    films.reading = Reading(fit=fit)
    path = table(tmp_path, "image,label,x0,y0,x1,y1", "a.png,Edema,40,10,60,20", "b.png,Edema,0,0,10,10")
    boxes = read_boxes(path, films, ("Edema",), (64, 64))
    np.testing.assert_allclose(boxes[0][0], [shares])
    assert (1 in boxes) == (fit != "crop")


def test_nih_boxes_are_of_the_1024_px_films(tmp_path):
    """The header as distributed; x, y, width, height; the file says Infiltrate."""
    films = cohort(tmp_path, ["00000013_005.jpg"], (512, 512))
    path = table(tmp_path, "Image Index,Finding Label,Bbox [x,y,w,h],,,", "00000013_005.png,Infiltrate,256,512,128,64,,,")
    np.testing.assert_allclose(read_boxes(path, films, ("Infiltration",))[0][0], [[.25, .5, .375, .5625]])


@pytest.mark.parametrize("line, said", (("a.png,Edema,8,4,8,20", "column x0: .* is no box"), ("a.png,Edema,8,,40,20", "is no box"),
                                        ("a.png,Edema,8,x,40,20", "column y0: 'x' is not a number"), ("a.png,Edema,-1,4,40,20", "is no box")))
def test_what_is_no_box_is_named(tmp_path, line, said):
    films = cohort(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match="row 2, .*" + said):
        read_boxes(table(tmp_path, "image,label,x0,y0,x1,y1", line), films, ("Edema",))
    with pytest.raises(ValueError, match="no column 'y1'"):
        read_boxes(table(tmp_path, "image,label,x0,y0,x1", "a.png,Edema,1,1,2"), films, ("Edema",))


def test_inside_is_the_area_of_the_union():
    """Against patch by patch geometry for one box; two equal boxes count once; a half patch is a half."""
    grid, (x0, y0, x1, y1) = (4, 8), (.25, .125, .8125, .5)
    area = np.array([[max(0, min(x1, (j + 1) / 8) - max(x0, j / 8)) * max(0, min(y1, (i + 1) / 4) - max(y0, i / 4)) * 32
                      for j in range(8)] for i in range(4)])
    np.testing.assert_allclose(inside(np.array([[x0, y0, x1, y1]]), grid), area, atol=1e-12)
    np.testing.assert_allclose(inside(np.array([[x0, y0, x1, y1]] * 2), grid), area, atol=1e-12)
    assert area[1, 6] == 0.5 and area[0, 3] == 0.5


def test_hit_mass_and_chance():
    """The strongest patch touches the box or does not; a flat map has the mass of chance."""
    box = np.array([[0, 0, .5, .25]])                              # two of 4 x 4 patches, wholly
    map = np.ones((4, 4))
    map[0, 1] = 5
    assert score_finding({"m": map}, box) == {"m": (1.0, 6 / 20), "chance": (2 / 16, 2 / 16)}
    branches = score_finding({"m, branch S": np.ones((4, 4)), "m, branch L": np.ones((2, 2))}, box)
    assert branches["chance, branch S"] == (2 / 16, 2 / 16) and branches["chance, branch L"] == (1 / 4, 2 / 16)     # larger patches touch it more often
    map[3, 3] = 9
    assert score_finding({"m": map}, box)["m"][0] == 0.0
    assert score_finding({"m": np.ones((4, 4))}, box)["m"][1] == 2 / 16
    within_one_patch = np.array([[.8, .8, .9, .9]])                # it is touched by that patch
    assert score_finding({"m": map}, within_one_patch)["m"][0] == 1.0
    across_four_patches = score_finding({"m": map}, np.array([[.2, .2, .3, .3]]))
    assert across_four_patches["m"][0] == 0.0 and across_four_patches["chance"][0] == 4 / 16


def test_every_map_of_a_model_is_found():
    """Labels have maps of their own, behind those of earlier tasks; the class token's is the mean over heads; branches are apart."""
    out = {"map": torch.rand(2, 3, 6), "label_map": torch.rand(2, 5, 6)}
    maps = finding_maps(out, 1, token=3, grids=[(2, 3)])
    assert list(maps) == ["class token", "label token"]
    np.testing.assert_allclose(maps["class token"], out["map"][1].mean(0).view(2, 3))
    assert list(map(map_title, maps)) == ["attention map", "label's map"]                # not every ViT reads its class token
    np.testing.assert_allclose(maps["label token"], out["label_map"][1, 3].view(2, 3))
    of_all = finding_maps(out, 1, None, [(2, 3)])["label token"]
    np.testing.assert_allclose(of_all, out["label_map"][1].mean(0).view(2, 3), rtol=1e-6)
    pair = {"map": [torch.rand(1, 3, 6), torch.rand(1, 3, 4)]}
    assert {name: map.shape for name, map in finding_maps(pair, 0, 0, [(2, 3), (2, 2)]).items()} == {
        "class token, branch S": (2, 3), "class token, branch L": (2, 2)}


def test_scores_are_means_over_labels_of_means_over_findings():
    """Three findings of one label and one of another weigh the same; chance stands beside them; intervals hold the value."""
    records = [("p", 0, {"m": (1.0, .2), "chance": (.1, .05)}), ("q", 0, {"m": (0.0, .4), "chance": (.1, .05)}),
               ("q", 0, {"m": (0.0, .6), "chance": (.1, .05)}), ("r", 1, {"m": (1.0, .8), "chance": (.3, .25)})]
    scores = score_maps(records, ("a", "b"))
    assert scores["m"]["findings"] == 4 and abs(scores["m"]["pointing"]["value"] - (1 / 3 + 1) / 2) < 1e-12
    assert abs(scores["m"]["mass"]["value"] - (.4 + .8) / 2) < 1e-12
    assert abs(scores["chance"]["pointing"]["value"] - .2) < 1e-12 and abs(scores["chance"]["mass"]["value"] - .15) < 1e-12
    assert scores["m"]["per_label"]["a"]["pointing"]["value"] == pytest.approx(1 / 3) and scores["m"]["per_label"]["a"]["findings"] == 3
    assert scores["m"]["pointing"]["low"] <= 2 / 3 <= scores["m"]["pointing"]["high"]


@pytest.mark.slow
def test_a_run_measures_and_draws_its_maps(tmp_path, monkeypatch, capsys):
    """LT-ViT and CrossViT on a few simulated films, whose boxes.csv lies beside the table: metrics.json, table and pictures."""
    monkeypatch.chdir(tmp_path)
    data = simulate.make("chest", str(tmp_path), patients=24)
    common = ["--data", data, "--epochs", "1", "--name"]
    train.main([*common, "a", "--model", "lt_vit", "--label-layers", "2", "--image", "32"])
    result = json.load(open("runs/a/metrics.json"))["localization"]
    assert list(result) == ["label token", "label token, mean of label blocks", "chance"]
    assert all(0 <= entry[metric]["value"] <= 1 for entry in result.values() for metric in ("pointing", "mass"))
    assert "mass in the box" in capsys.readouterr().out and "pointing game" in open("runs/a/report.html").read()
    assert len([name for name in os.listdir("runs/a/figures") if name.startswith("patient_")]) == 3
    train.main([*common, "b", "--model", "crossvit", "--variant", "9", "--image", "48"])
    assert list(json.load(open("runs/b/metrics.json"))["localization"]) == ["class token, branch S", "class token, branch L",
                                                                                "chance, branch S", "chance, branch L"]
    findings = json.load(open("runs/b/metrics.json"))["findings"]
    alone = [findings["branches"][f"branch {name} alone"] for name in "SL"]
    assert alone[0]["units"] == findings["units"] and len({findings["brier"]["value"], *(scores["brier"]["value"] for scores in alone)}) == 3
    assert "branch S alone" in capsys.readouterr().out and "Each branch alone" in open("runs/b/report.html").read()
    train.main([*common, "c", "--model", "multivit", "--mode", "baseline", "--patient-target", "max", "--image", "32"])
    assert list(json.load(open("runs/c/metrics.json"))["localization"]) == ["class token", "chance"]


def test_a_flat_map_points_no_better_than_chance():
    """Wherever the box is: of equals none is the strongest."""
    for corner in (0, .75):
        scores = score_finding({"m": np.ones((4, 4))}, np.array([[corner, corner, corner + .25, corner + .25]]))
        assert scores["m"] == scores["chance"] == (1 / 16, 1 / 16)


def test_boxes_beside_the_table_are_used_unasked(tmp_path):
    """boxes.csv of its folder; that none of these is of the cohort is refused only of a table that was asked for."""
    films = cohort(tmp_path, ["a.png"])
    films.folder = str(tmp_path)
    assert find_boxes(None, films, ("Edema",), (16, 16)) == {}
    path = table(tmp_path, "image,label,x0,y0,x1,y1", "a.png,Edema,40,10,60,20")
    assert list(find_boxes(None, films, ("Edema",), (16, 16))) == [0] and find_boxes(None, films, ("Mass",), (16, 16)) == {}
    with pytest.raises(ValueError, match="none of its boxes is of an image of c and one of the labels Mass"):
        find_boxes(path, films, ("Mass",), (16, 16))
    films.folder = None
    assert find_boxes(None, films, ("Edema",), (16, 16)) == {}


def test_boxes_of_a_larger_copy_or_of_other_images_are_refused(tmp_path):
    """In silence they would be measured at the wrong place, or not at all; a reader may overshoot the edge by a pixel or two."""
    films = cohort(tmp_path, ["a.png"])                            # 80 x 40 px
    films.folder = None
    header = "image,label,x0,y0,x1,y1"
    with pytest.raises(ValueError, match="row 2, column x0: .* is no box in the image of 80 x 40 px"):
        read_boxes(table(tmp_path, header, "a.png,Edema,0,0,160,80"), films, ("Edema",))
    assert read_boxes(table(tmp_path, header, "a.png,Edema,0,0,82,40"), films, ("Edema",))
    with pytest.raises(ValueError, match="none of its boxes is of an image of c and one of the labels Edema"):
        find_boxes(table(tmp_path, header, "b.png,Edema,0,0,8,4"), films, ("Edema",), (16, 16))


def test_boxes_that_nothing_can_be_compared_with_are_refused(place):
    """A model of several images, and of no labels, has no map to hold against them: they are not passed over in silence."""
    with pytest.raises(ValueError, match="--boxes b.csv: boxes are of labels"):
        evaluate.main([str(place / "runs" / "multi"), "--boxes", "b.csv", "--device", "cpu"])

"""Files that lie, files edited by hand, malicious pickles, and thousands of damaged files: each is read, or refused in one line."""
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import eval as evaluate
import train
from plumbing import formats
from plumbing.arrays import read_bag, read_values, read_volume
from plumbing.checkpoints import read_tensors
from plumbing.cohort import Task
from plumbing.load_cohort import load_cohort
from plumbing.pictures import read_image
from plumbing.run_folder import load_state
from plumbing.saved_run import open_model
from tests.plumbing.test_dicom import write as write_dicom
from tests.plumbing.test_nifti import write as write_nifti
from tests.grey_runs import TINY, copied, fails, flags, fork, refused, wait
from vit import ViT

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


# -----------------------------------------------------------------------------
# arrays and pictures


def test_ranges_that_look_wrong(tmp_path):
    """Float and 16-bit pictures and volumes are stretched from their own range, a constant one is 0, not a division by zero; NaN
    and infinity are refused; vectors of bags are taken as they are."""
    for name, values in (("f.tif", np.float32([[-1000, 3000]])), ("u.png", np.uint16([[0, 65535]]))):
        Image.fromarray(values).save(name)
        assert read_image(name, (1, 2), channels=1)[0].tolist() == [[[0, 255]]]
    Image.fromarray(np.full((2, 2), 7.5, np.float32)).save("c.tif")
    assert not read_image("c.tif", (2, 2))[0].any() and not read_volume(np.full((2, 2, 2), -3.5), (2, 2, 2)).any()
    for value in (np.nan, np.inf, -np.inf):
        Image.fromarray(np.float32([[0, value]])).save("n.tif")
        assert "n.tif: not a readable image (holds values that are not finite)" == refused(read_image, "n.tif", (2, 2))


def npy(shape, body=bytes(64), kind="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


@pytest.mark.parametrize("shape", ((10 ** 6,) * 3, (10 ** 5,) * 2, (900, 1000, 1000), (2 ** 63,), (-1, 4)))
def test_a_header_that_lies_takes_no_memory(tmp_path, shape):
    """.npy of 64 bytes that says it has up to 10^18 numbers, the same packed in .npz, and a .pt whose one number stands for all."""
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with zipfile.ZipFile("a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", npy(shape))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.npy", "a.npz"):
        assert refused(read_values, name).startswith(f"{name}: not a readable image (")
    if 10 ** 9 < np.prod(shape, dtype=float) < 10 ** 15:
        torch.save(torch.zeros(1).expand(shape), "a.pt")
        assert "a.pt: not a readable image (says it holds" in refused(read_values, "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000              # KB


def test_a_packed_bomb_is_refused_by_what_it_unpacks_to(tmp_path, monkeypatch):
    """Before anything is unpacked."""
    monkeypatch.setattr(formats, "LARGEST", 2 ** 20)
    np.savez_compressed("a.npz", a=np.zeros((2, 400, 400), np.float64))
    assert os.path.getsize("a.npz") < 10_000
    assert refused(read_values, "a.npz").startswith("a.npz: not a readable image (says it holds 2560128 bytes, the file has ")


def test_a_big_picture_behind_a_small_file_is_refused(tmp_path):
    """A PNG whose header promises 65535 x 65535 px, and one Pillow only warns of; neither is decoded."""
    Image.new("1", (10, 10)).save("a.png")
    content = bytearray(open("a.png", "rb").read())
    for side in (65535, 9500):
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        open("a.png", "wb").write(content)
        assert re.match(r"a.png: not a readable image \(Image size \(\d+ pixels\) exceeds limit", refused(read_image, "a.png", (8, 8)))


# -----------------------------------------------------------------------------
# weights and run folders


def safetensors_file(header, body=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize("content", (
    safetensors_file({"a": {"dtype": "F32", "shape": [10 ** 9, 10 ** 9], "data_offsets": [0, 4]}}, bytes(4)),
    safetensors_file({"a": {"dtype": "F32", "shape": [2 ** 40], "data_offsets": [0, 2 ** 42]}}, bytes(4)),
    safetensors_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    safetensors_file({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), safetensors_file(b"{" * 10 ** 6),
    struct.pack("<Q", 2 ** 62) + b"{}", struct.pack("<Q", 99_999_999) + b"{}", b"\xff" * 7),
    ids=("shape", "offset", "overlap", "dtype", "nested", "huge header", "long header", "bytes"))
def test_safetensors_that_lie_are_refused(tmp_path, content):
    """Shapes beyond the file, bytes used twice, no such type, a header longer than the file."""
    open("a.safetensors", "wb").write(content)
    line = refused(read_tensors, "a.safetensors")
    assert line.startswith("a.safetensors: not a readable weight file (")


@pytest.mark.parametrize("change", (pytest.param({"dim": 65528, "mlp": 65535, "depth": 300}, marks=pytest.mark.slow),
                                    {"depth": 60000}, {"registers": 10 ** 9}, {"head_dim": 10 ** 8},
                                    {"head_dim": -1}, {"registers": "many"}, {"image": [65528, 65528]}, {"image": [10 ** 9, 10 ** 9]},
                                    {"channels": 65535, "mean": [0.5] * 65535, "std": [0.5] * 65535, "patch": [16, 16]},
                                    {"eps": "small"}, {"dropout": 7}, {"attention": "all"}), ids=lambda change: str(change)[:60])
def test_a_config_json_with_absurd_sizes_takes_no_memory(greys, change):
    """Refused in a moment, by from_pretrained and by open_model, with no more memory than 0.3 GB."""
    folder = os.path.join("runs", "a", "best")
    os.makedirs(folder)
    model, config = ViT(TINY, {"grey": 1}), {**vars(TINY), **change}
    safetensors.torch.save_file(model.state_dict(), f"{folder}/model.safetensors")
    json.dump({"model": "vit", "vit": config, "tasks": [vars(Task("grey", "regression"))]}, open(f"{folder}/config.json", "w"))
    json.dump({"model": "vit"}, open("runs/a/args.json", "w"))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert refused(ViT.from_pretrained, folder).startswith(f"{folder}: ")
    assert re.match("runs/a: (?!no run folder)", refused(open_model, "runs/a"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000 and time.perf_counter() - began < 60


@pytest.mark.parametrize("change, message", (
    ({"tasks": [{"name": "grey"}]}, "the tasks or columns of config.json are not"), ({"tasks": ["grey"]}, "the tasks or columns"),
    ({"tasks": 3}, "the tasks or columns"), ({"columns": [{"width": 2}]}, "the tasks or columns"), ({"model": "vit", "vit": [1]}, "does not fit ViTConfig"),
    ({"model": "resnet"}, "is of model 'resnet'"), ({"model": "multivit"}, "config.json describes no model"),
    ({"tasks": [vars(Task("grey", "classes", tuple("abc")))]}, r"head.grey.bias: model \(3,\), file \(1,\)")), ids=str)
def test_a_config_json_edited_by_hand_is_one_line(greys, change, message):
    """Other tasks, no tasks, more labels than the file has outputs, another model."""
    os.makedirs("runs/a/best")
    safetensors.torch.save_file(ViT(TINY, {"grey": 1}).state_dict(), "runs/a/best/model.safetensors")
    config = {"model": "vit", "vit": vars(TINY), "tasks": [vars(Task("grey", "regression"))], **change}
    json.dump(config, open("runs/a/best/config.json", "w")), json.dump({"model": "vit"}, open("runs/a/args.json", "w"))
    assert re.search(message, refused(open_model, "runs/a"))


@pytest.mark.parametrize("change, message", (
    ({"epochs": "many"}, "epochs cannot be 'many'"), ({"epochs": -2}, "--epochs -2: need at least 1"), ({"dropout": 3.0}, "--dropout 3.0"),
    ({"seed": 1.5}, "seed cannot be 1.5"), ({"model": "resnet"}, "model cannot be 'resnet'"), ({"data": None}, "data cannot be None"),
    ({"optimizer": "SGD"}, "optimizer cannot be 'SGD'"),
    ({"compile": "yes"}, "compile cannot be 'yes'"), ({"lr": [1]}, "lr cannot be [1]"), ([1], "args.json cannot be read"),
    ({"image": "9" * 99}, "as SIDE, HEIGHTxWIDTH")), ids=str)
def test_an_args_json_edited_by_hand_is_one_line(greys, grey_run, change, message):
    """Types, choices and ranges are those of the flags."""
    copied(grey_run)
    saved = json.load(open("runs/a/args.json"))
    json.dump({**saved, **change} if isinstance(change, dict) else change, open("runs/a/args.json", "w"))
    assert message in fails(["--resume", "runs/a", "--device", "cpu"])


@pytest.mark.parametrize("content", ("patient,part\np0,train\n", "patient,split\np0,dev\n", "", "split\ntrain\n"))
def test_a_split_csv_edited_by_hand_is_one_line(greys, grey_run, capsys, content):
    """No patient is silently in no split; a run that begins with this one says that nobody knows whom it learned from."""
    copied(grey_run)
    open("runs/a/split.csv", "w").write(content)
    assert refused(evaluate.main, ["runs/a", "--device", "cpu"]).startswith("runs/a/split.csv row")
    argv = [x for x in flags(greys, "--pretrained", "runs/a", "--epochs", "1") if x not in ("--patch", "8")]
    train.main(argv)
    out = capsys.readouterr().out
    assert "\nruns/a/split.csv row" in out and "WARNING: nobody can say whether a, from which it started, learned from" in out


class Malicious:
    def __reduce__(self):
        return open, ("ran", "w")


def test_a_malicious_pickle_never_runs(greys, grey_run):
    """As a bag, as a picture or volume, as weights, as features and as the state of a run."""
    torch.save({"epoch": Malicious()}, "zip.pt")
    open("bare.pt", "wb").write(pickle.dumps(Malicious(), protocol=2)), open("a.npy", "wb").write(pickle.dumps(Malicious()))
    with zipfile.ZipFile("a.npz", "w") as file:
        file.writestr("a.npy", pickle.dumps(Malicious()))
    for reader in (lambda path: read_bag(path, 2), lambda path: read_volume(path, (2, 2, 2)), read_tensors, lambda path: read_image(path, (2, 2))):
        for path in ("zip.pt", "bare.pt", "a.npy", "a.npz"):
            refused(reader, path)
    copied(grey_run)
    os.replace("zip.pt", "runs/a/last/state.pt")
    assert "last/state.pt: cannot be resumed (" in fails(["--resume", "runs/a", "--device", "cpu"])
    assert not os.path.exists("ran")
    Malicious().__reduce__()[0](*Malicious().__reduce__()[1]).close()
    assert os.path.exists("ran")                                   # it would have


# -----------------------------------------------------------------------------
# all readers, fed with nonsense


def mutated(content, rng):
    """A valid file -> one that was cut, overwritten, shortened, lengthened or shuffled at random."""
    content, kind, n = bytearray(content), rng.integers(7), len(content)
    i, j = sorted(rng.integers(0, n + 1, 2))
    if kind == 0:
        return bytes(content[:i])
    if kind == 1:
        for _ in range(rng.integers(1, 9)):
            content[rng.integers(n)] ^= 1 << rng.integers(8)
    elif kind == 2:
        del content[i:min(j, i + 64)]
    elif kind == 3:
        content[i:i] = content[i:min(j, i + 64)] * int(rng.integers(1, 50))
    elif kind == 4:
        content[i:i] = rng.bytes(rng.integers(1, 40))
    elif kind == 5:                                                # numbers that readers take for sizes
        word = (b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f")[rng.integers(6)]
        content[i:i + len(word)] = word
    else:
        old = re.findall(rb"\d+|[A-Za-z_]+|[^\w\s]", bytes(content[i:i + 200]))
        new = (b"-1", b"0", b"99999999999999999999", b"1e999", b"NaN", b"null", b"[]", b'"', b"\n", b"\r\n", b",", b"true", b"\0", b"\xff", b"2")
        if old:
            content = content.replace(old[rng.integers(len(old))], new[rng.integers(len(new))], 1 + 3 * int(rng.integers(2)))
    return bytes(content)


def small_files(greys):
    """{name: (file to change, valid content, what reads it)} under the current folder."""
    pixels, rng = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8), np.random.default_rng(0)
    for name, picture in (("a.jpg", pixels), ("a.png", pixels), ("b.png", pixels[..., 0].astype(np.uint16) * 200), ("a.tif", pixels),
                          ("b.tif", pixels[..., 0].astype(np.float32)), ("a.bmp", pixels), ("a.webp", pixels), ("a.ppm", pixels)):
        Image.fromarray(picture).save(name)
    np.save("a.npy", rng.normal(size=(4, 4, 4)).astype(np.float32)), np.savez_compressed("a.npz", a=rng.integers(0, 9, (4, 4, 4)))
    torch.save(torch.randn(3, 2), "a.pt"), torch.save(torch.randn(3, 2), "old.pt", _use_new_zipfile_serialization=False)
    files = {name: lambda name=name: read_image(name, (8, 8), 2) for name in ("a.jpg", "a.png", "b.png", "a.tif", "b.tif", "a.bmp", "a.webp", "a.ppm")}
    files |= {name: lambda name=name: read_volume(name, (4, 4, 4)) for name in ("a.npy", "a.npz")}
    files |= {name: lambda name=name: read_bag(name, 2) for name in ("a.pt", "old.pt")}
    open("t.csv", "wb").write(b'\xef\xbb\xbfpatient_id,image,target,grade,"label_a",label_b,split\r\n'
                              b'p,a.png,1.5,one,0,1,train\r\nq,a.jpg,2.5,two,,-1,val\r\n"r",b.png,,,1,0,test\r\n')
    files["t.csv"] = lambda: load_cohort("t.csv", target="target,grade,label_a,label_b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout, said = io.StringIO(), sys.stdout
        train.main(flags(greys, "--name", "a"))
        sys.stdout = said
    best, model = "runs/a/best", ViT(TINY, {"grey": 1})
    safetensors.torch.save_file(model.state_dict(), f"{best}/model.safetensors")
    config = json.load(open(f"{best}/config.json"))
    json.dump({**config, "vit": vars(TINY)}, open(f"{best}/config.json", "w"))
    os.makedirs("pickled"), torch.save(model.state_dict(), "pickled/pytorch_model.bin")
    os.makedirs("hf"), safetensors.torch.save_file(model.state_dict(), "hf/model.safetensors")
    json.dump({"hidden_size": 8, "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
              open("hf/config.json", "w"))
    json.dump({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 16}, open("hf/preprocessor_config.json", "w"))
    json.dump({"num_attention_heads": 2}, open("pickled/config.json", "w"))
    files[f"{best}/model.safetensors"] = files[f"{best}/config.json"] = files["runs/a/args.json"] = lambda: open_model("runs/a")
    files["hf/config.json"] = files["hf/preprocessor_config.json"] = files["hf/model.safetensors"] = lambda: ViT.from_pretrained("hf", channels=1)
    files["pickled/pytorch_model.bin"] = lambda: ViT.from_pretrained("pickled")
    last, _, args = open_model("runs/a")
    safetensors.torch.save_file(last.state_dict(), "runs/a/last/model.safetensors")
    with open("runs/a/last/config.json", "w") as file:
        file.write(open(f"{best}/config.json").read())
    optimizer = train.make_optimizer(last, args, torch.device("cpu"))
    state = {"epoch": 0, "step": 0, "best": None, "history": [], "loss": [], "norm": 0.0}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save({**state, "optimizer": optimizer.state_dict(), "random": [{"cpu": torch.get_rng_state()}]}, "runs/a/last/state.pt")
    files["runs/a/last/state.pt"] = lambda: load_state("runs/a", last, optimizer, state, 5)
    return {name: (open(name, "rb").read(), reader) for name, reader in files.items()}


def dicom_files():
    write_dicom("a.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8)), write_dicom("b.dcm", np.zeros((4, 8, 8), np.int16))
    return {"a.dcm": lambda: read_image("a.dcm", (8, 8)), "b.dcm": lambda: read_volume("b.dcm", (4, 4, 4))}


def nifti_files():
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(name, np.arange(64, dtype=np.int16).reshape(4, 4, 4))
    return {name: lambda name=name: read_volume(name, (4, 4, 4)) for name in ("a.nii", "a.nii.gz")}


@pytest.mark.parametrize("inputs, package", (
    (200, ""), (50, "pydicom"), (50, "nibabel"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((40_000, ""), (10_000, "pydicom"), (10_000, "nibabel")))))
def test_readers_read_or_refuse_whatever_they_are_given(greys, inputs, package):
    """Thousands of damaged files of 20 kinds, DICOM and NIfTI where they can be read: each is read, or refused by a ValueError of one
    line, within 5 s of CPU, and all of them with at most 1 GB more than before (more is denied by the system)."""
    if package:
        pytest.importorskip(package, reason=f"what {package} reads is read by {package}")

    def feed():
        rng = np.random.default_rng(inputs)
        if package:
            files = {"pydicom": dicom_files, "nibabel": nifti_files}[package]()
            files = {name: (open(name, "rb").read(), reader) for name, reader in files.items()}
        else:
            files = small_files(greys)
        for content, reader in files.values():
            reader()                                               # whole files are read
        warnings.simplefilter("ignore")
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if os.path.exists("/proc/self/statm") else 2 ** 36
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 ** 30, size + 2 ** 30))
        refusals = {name: [0, 0] for name in files}
        os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT), 2)                          # libtiff speaks
        for i in range(inputs):
            name, (content, reader) = list(files.items())[i % len(files)]
            with open(name, "wb") as file:
                file.write(damaged := mutated(content, rng))
            signal.setitimer(signal.ITIMER_PROF, 5)                # s of CPU: a reader that hangs ends the process
            signal.alarm(60)                                       # and so does one that waits
            try:
                reader()
            except ValueError as error:
                assert "\n" not in str(error), (name, str(error), damaged[:2000])
                refusals[name][0] += 1
            except BaseException as error:
                raise AssertionError(f"{name}, input {i}: {type(error).__name__} {error}\n{damaged[:2000]}") from error
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            refusals[name][1] += 1
            with open(name, "wb") as file:
                file.write(content)
        print(json.dumps(refusals))

    status, said = wait(fork(feed))
    assert status == 0, (status, said[-4000:])
    refusals = json.loads(said.strip().splitlines()[-1])
    assert sum(n for _, n in refusals.values()) == inputs and all(refused for refused, _ in refusals.values()), refusals

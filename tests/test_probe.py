"""probe.py: the article's counts, its heads against loops, features that are computed once, and the command."""
import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import data
import train
from data import Samples
from plumbing.cohort import Cohort, Task
from plumbing.features import cached_features
from plumbing.flags import parse
from plumbing.load_cohort import load_cohort
from plumbing.prepare import prepare, run_around
from plumbing.saved_run import open_model
from probe import CNN, HEADS, CNNConfig, Probe, ProbeConfig, resize_grid, resize_list
from tests.small_runs import fit
from vit import ViT, ViTConfig

CPU = torch.device("cpu")
TINY = ViTConfig(image=(16, 16), patch=(4, 4), dim=8, depth=2, heads=2, mlp=16, registers=2, dropout=0.5)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# -----------------------------------------------------------------------------
# the article


@pytest.mark.parametrize("head, count", (("class", 1_538), ("tokens", 443_906), ("resized", 459_266), ("resized-2d", 459_266)))
def test_heads_have_the_articles_parameters(head, count):
    """Model1, 2 and 3 on ViT-B/16 at 224 px, two classes; and only they are to be learned."""
    with torch.device("meta"):
        probe = Probe(ProbeConfig(ViTConfig(dim=768, heads=12, mlp=3072), head), {"pneumonia": 2})
    assert parameters(probe.head) == count == sum(p.numel() for p in probe.parameters() if p.requires_grad)
    assert parameters(probe.vit) == 85_798_656                     # the article's, without its pooler


def test_cnn_has_the_articles_parameters():
    """348,050 at 3 x 256 x 256 px and two classes; every side from 27 px on is taken, grey too."""
    assert parameters(CNN(CNNConfig(), {"pneumonia": 2})) == 348_050
    model = CNN(CNNConfig((27, 90), 1, (0.5,), (0.5,)), {"a": 1, "b": 3})
    logits = model(torch.zeros(2, 1, 27, 90, dtype=torch.uint8))["logits"]
    assert logits["a"].shape == (2, 1) and logits["b"].shape == (2, 3)
    with pytest.raises(ValueError, match="at least 27 px"):
        CNNConfig((256, 26))


def test_heads_equal_loops():
    """Model1 reads the class token alone; Model2 mixes the tokens of each feature, then adds over features and hidden units."""
    config, x = ProbeConfig(TINY, "tokens", hidden=5), torch.randn(3, 17, 8, dtype=torch.float64)
    head = HEADS["tokens"](config, {"a": 2}).double()
    W1, b1, W2, b2 = head.ln1.weight, head.ln1.bias, head.ln2["a"].weight, head.ln2["a"].bias
    for b in range(3):
        for k in range(2):
            total = b2[k].clone()
            for c in range(8):
                for j in range(5):
                    total += W2[k, c * 5 + j] * max(sum(W1[j, t] * x[b, t, c] for t in range(17)) + b1[j], torch.tensor(0.0))
            assert torch.allclose(head(x)["a"][b, k], total, atol=1e-10)
    head, other = HEADS["class"](config, {"a": 2}).double(), x.clone()
    other[:, 1:] = 0
    assert torch.equal(head(x)["a"], head(other)["a"]) and torch.allclose(head(x)["a"], x[:, 0] @ head.ln["a"].weight.T + head.ln["a"].bias)


def test_the_articles_resize_is_linear_in_the_list():
    """Column i of n lies at (i + 1/2) m / n - 1/2 of the m old ones, and is a mixture of its two neighbors; by a loop."""
    x = torch.randn(2, 197, 3, dtype=torch.float64)
    y = resize_list(x, (16, 16))
    assert y.shape == (2, 257, 3)
    for i in range(257):
        place = min(max((i + 0.5) * 197 / 257 - 0.5, 0), 196)
        j = min(int(place), 195)
        assert torch.allclose(y[:, i], x[:, j] * (1 - (place - j)) + x[:, j + 1] * (place - j), atol=1e-12)
    assert torch.equal(y[:, 0], x[:, 0]) and not torch.allclose(y[:, 1], x[:, 1])            # it is part class token


def test_only_the_2d_resize_keeps_a_picture():
    """Tokens that hold their column number: stretched over the grid every row still rises from left to right, and the class token
    is what it was; along the list rows run into each other, and the class token into the first patch."""
    ramp = torch.arange(14.0).expand(14, 14).flatten()
    x = torch.cat([torch.tensor([1000.0]), ramp])[None, :, None]
    y = resize_grid(x, (14, 14), (16, 16))[0, :, 0]
    rows = y[1:].view(16, 16)
    expected = [min(max((i + 0.5) * 14 / 16 - 0.5, 0), 13) for i in range(16)]
    assert y[0] == 1000 and torch.allclose(rows, torch.tensor(expected).expand(16, 16), atol=1e-5)
    z = resize_list(x, (16, 16))[0, :, 0]
    assert z[1] > 100 and not (z[1:].view(16, 16).diff(dim=1) > 0).all()
    for name, stretched in (("resized", z), ("resized-2d", y)):    # and each head has its own
        head = HEADS[name](ProbeConfig(ViTConfig(dim=1, heads=1), name, hidden=3), {"a": 2})
        assert torch.equal(head(x)["a"], head.large(stretched[None, :, None])["a"]) and not torch.equal(z, y)
    tall = torch.randn(2, 1 + 2 * 3, 4)
    assert torch.equal(resize_grid(tall, (2, 3), (2, 3)), tall) and resize_grid(tall, (2, 3), (4, 5)).shape == (2, 21, 4)


def test_the_backbone_is_frozen_and_without_dropout():
    """No gradient, no dropout in training, no registers among the tokens, and images give what their tokens give."""
    torch.manual_seed(0)
    probe = Probe(ProbeConfig(TINY, "tokens"), {"a": 2}).train()
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    tokens = probe.tokens(images)
    assert tokens.shape == (3, 17, 8) and torch.equal(tokens, probe.tokens(images)) and not probe.vit.training and probe.head.training
    logits = probe(images)["logits"]["a"]
    assert torch.equal(logits, probe(tokens)["logits"]["a"])
    logits.sum().backward()
    assert all(p.grad is None for p in probe.vit.parameters()) and all(p.grad is not None for p in probe.head.parameters())
    whole = probe.vit.encode(probe.vit.embed(images))              # all at once, with registers
    assert torch.allclose(tokens[:, 0], whole[:, 0], atol=1e-6) and torch.allclose(tokens[:, 1:], whole[:, 3:], atol=1e-6)


# -----------------------------------------------------------------------------
# features on disk


@pytest.fixture
def films(tmp_path):
    """Five grey files of a cohort; the cache is beside them."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(path)
    return Cohort("films", [Task("sick", "classes", ("0", "1"))], list("abcde"), paths, {"sick": np.arange(5, dtype=np.float32) % 2})


def probe_of(seed=0, **changes):
    torch.manual_seed(seed)
    return Probe(ProbeConfig(ViTConfig(**{**TINY.__dict__, **changes})), {"sick": 2})


def cached(films, probe, size=(16, 16)):
    folder = os.path.dirname(films.paths[0])
    features, _ = cached_features(films, probe, folder, size, probe.config.vit.channels, CPU)
    return features, os.listdir(os.path.join(folder, "features"))


def test_cached_features_equal_fresh_ones_bit_for_bit(films):
    """Whatever the batch they are made in; they lie on disk as float32 and are memory-mapped."""
    probe = probe_of()
    features, files = cached(films, probe)
    assert isinstance(features, np.memmap) and features.shape == (5, 17, 8) and features.dtype == np.float32 and len(files) == 1
    samples = Samples(films, range(5), (16, 16))
    for chosen in ([0, 1, 2, 3, 4], [3], [4, 1]):
        images = torch.stack([torch.from_numpy(np.array(samples[0, i]["image"])) for i in chosen])
        assert np.array_equal(probe.tokens(images).numpy(), features[chosen])
    films.features = features
    batch = next(iter(data.make_loader(Samples(films, [2, 4], (16, 16)), 2)[0]))
    assert np.array_equal(batch["features"].numpy(), features[[2, 4]]) and "image" not in batch


def test_a_change_of_weights_size_or_file_makes_new_features(films):
    """And nothing else does: the same again is read, also for another head and other targets."""
    def files(probe=None, size=(16, 16)):
        return len(cached(films, probe or probe_of(), size)[1])

    assert files() == 1 and files() == 1
    other = Probe(ProbeConfig(TINY, "class"), {"age": 1}, probe_of().vit)
    films.targets["sick"] = 1 - films.targets["sick"]
    assert files(other) == 1
    probe = probe_of()
    with torch.no_grad():
        probe.vit.blocks[1].mlp.fc2.bias[3] += 1e-3
    assert files(probe) == 2
    assert files(probe_of(mean=(0.4, 0.5, 0.5))) == 3              # no tensor, but it changes what the ViT sees
    assert files(probe_of(image=(20, 20)), (20, 20)) == 4
    assert files(probe_of(channels=1, mean=(0.5,), std=(0.5,))) == 5
    before, about = cached(films, probe_of())[0].copy(), os.stat(films.paths[1])
    Image.open(films.paths[1]).point(lambda x: 255 - x).save(films.paths[1])
    os.utime(films.paths[1], ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    after, names = cached(films, probe_of())
    assert len(names) == 6 and [bool((a != b).any()) for a, b in zip(before, after)] == [False, True, False, False, False]


def test_features_of_arrays_follow_their_pixels(films):
    """A cohort without files, such as MedMNIST's."""
    rng = np.random.default_rng(0)
    films.pixels = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    assert len(cached(films, probe_of())[1]) == 1
    films.pixels = films.pixels.copy()
    assert len(cached(films, probe_of())[1]) == 1
    films.pixels[4, 3, 3] ^= 1
    assert len(cached(films, probe_of())[1]) == 2


def test_half_written_features_never_count(films, monkeypatch):
    """A failure in the middle leaves nothing; a second process that was faster is not disturbed; a broken file is named."""
    probe, calls = probe_of(), []
    real, folder = probe.tokens, os.path.dirname(films.paths[0])

    def failing(images):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probe, "tokens", failing)
    with pytest.raises(OSError, match="No space"):
        cached(films, probe)
    assert calls and os.listdir(os.path.join(folder, "features")) == []

    def with_rival(images):                                        # another process ends first
        monkeypatch.setattr(os, "getpid", lambda: 12345)
        monkeypatch.setattr(probe, "tokens", real)
        cached(films, probe)
        monkeypatch.undo()
        return real(images)

    monkeypatch.setattr(probe, "tokens", with_rival)
    features, files = cached(films, probe)
    assert len(files) == 1 and np.array_equal(features, cached(films, probe_of())[0])
    path = os.path.join(folder, "features", files[0])
    open(path, "wb").write(b"broken")
    with pytest.raises(ValueError, match=f"{files[0]}: not a file of features.*delete it"):
        cached(films, probe)


# -----------------------------------------------------------------------------
# the data


def save(path, seed):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


@pytest.fixture
def nih(tmp_path):
    """24 films as NIH distributes them: of each four two have Pneumonia, one nothing, one another finding only."""
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    for i in range(24):
        findings = ("Edema|Pneumonia", "No Finding", "Pneumonia", "Effusion")[i % 4]
        save(str(tmp_path / f"{i:08}_000.png"), i)
        lines.append(f"{i:08}_000.png,{findings},0,{i},50,M,PA")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path)


def test_nih_pneumonia_against_no_finding(nih):
    """1 for Pneumonia, 0 for No Finding, unknown for films with other findings only; no film is dropped."""
    cohort = load_cohort("nih", nih, target="pneumonia")
    assert cohort.tasks == [Task("pneumonia", "classes", ("0", "1"))] and len(cohort.paths) == 24
    assert np.array_equal(cohort.targets["pneumonia"], [1, 0, 1, np.nan] * 6, equal_nan=True)


# -----------------------------------------------------------------------------
# the command


pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


def flags(nih, *more):
    return ["--data", "nih", "--images", nih, "--target", "pneumonia", "--epochs", "2", "--batch-size", "4", "--device", "cpu",
            "--val", "0.25", *more]


BACKBONE = ("--model", "vit", "--image", "16", "--patch", "8", "--epochs", "1", "--name", "vit")


@pytest.fixture
def backbone(nih):
    """A run folder of a ViT."""
    fit(flags(nih, *BACKBONE))
    return "runs/vit"


@pytest.fixture
def forwards(monkeypatch):
    """List of the number of images of every pass through a ViT."""
    seen, real = [], ViT.embed
    monkeypatch.setattr(ViT, "embed", lambda self, images: seen.append(len(images)) or real(self, images))
    return seen


def log(run):
    return [[row[key] for key in row if key not in ("seconds", "waited")] for row in csv.DictReader(open(f"{run}/log.csv"))]


@pytest.mark.slow
def test_probes_train_on_features_that_are_computed_once(nih, backbone, forwards, capsys):
    """Every image goes through the ViT once for the first head, never again for the others; eval.py repeats the numbers from
    the run folder alone, which needs no other weights; and the whole model answers to images as it did to features."""
    import eval as evaluation
    capsys.readouterr()
    for head in HEADS:
        train.main(flags(nih, "--model", "probe", "--head", head, "--pretrained", backbone, "--name", head))
        assert forwards == [1] * 24, head
    out = capsys.readouterr().out
    assert out.count("features of 24 images computed, now in") == 1 and out.count("features of 24 images read from") == 3
    assert "6 of 24 images have no known target" in out and "WARNING" not in out
    before, rows = json.load(open("runs/tokens/metrics.json")), log("runs/tokens")
    os.rename("runs/vit", "gone")
    evaluation.main(["runs/tokens", "--device", "cpu"])
    assert json.load(open("runs/tokens/metrics.json")) == before and forwards == [1] * 24
    evaluation.main(["runs/tokens", "--device", "cpu", "--split", "val"])
    folder, = [name for name in os.listdir("runs/tokens") if name.endswith("-val")]
    best = max(float(row[-1]) for row in rows)
    assert json.load(open(f"runs/tokens/{folder}/metrics.json"))["pneumonia"]["auroc"]["value"] == pytest.approx(best, abs=1e-12)
    model, tasks, args = open_model("runs/tokens")
    cohort = load_cohort("nih", nih, target="pneumonia")
    images = torch.stack([torch.from_numpy(np.array(Samples(cohort, range(24), (16, 16))[0, i]["image"])) for i in range(3)])
    features, _ = cached_features(cohort, model, args.cache_dir, (16, 16), 3, CPU)
    assert torch.equal(model(images)["logits"]["pneumonia"], model(torch.from_numpy(features[:3].copy()))["logits"]["pneumonia"])


def test_training_leaves_the_backbone_alone_and_never_draws_an_unknown_film(nih, backbone, monkeypatch, capsys):
    """The ViT in best/ is the one that was given, bit for bit; each training batch is half pneumonia."""
    from safetensors.torch import load_file
    seen, real = [], train.model_loss
    monkeypatch.setattr(train, "model_loss", lambda tasks, out, targets, *more: seen.append(targets["pneumonia"].tolist()) or
                        real(tasks, out, targets, *more))
    fit(flags(nih, "--model", "probe", "--pretrained", backbone, "--name", "a", "--rotate", "5"))
    given, got = load_file("runs/vit/best/model.safetensors"), load_file("runs/a/best/model.safetensors")
    names = [name for name in given if not name.startswith("head.")]
    assert len(names) > 30 and all(torch.equal(given[name], got[f"vit.{name}"]) for name in names)
    assert seen and all(set(batch) <= {0.0, 1.0} and abs(2 * sum(batch) - len(batch)) <= 1 for batch in seen)
    assert "--augment and --rotate do not change them" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("model", ("probe", "cnn"))
def test_a_stopped_run_goes_on_to_the_same_bits(nih, backbone, model, monkeypatch):
    """SIGTERM in the middle of an epoch, then --resume; for a probe after its features were deleted and --pretrained has become
    another ViT: the run goes on with its own."""
    more = ("--model", "probe", "--pretrained", backbone) if model == "probe" else ("--model", "cnn", "--image", "27")
    train.main(flags(nih, *more, "--name", "whole"))
    real = train.lr_at
    monkeypatch.setattr(train, "lr_at", lambda step, *rest: step == 1 and os.kill(os.getpid(), signal.SIGTERM) or real(step, *rest))
    with pytest.raises(SystemExit):
        train.main(flags(nih, *more, "--name", "cut"))
    monkeypatch.setattr(train, "lr_at", real)
    if model == "probe":
        shutil.rmtree("data_cache/features")
        train.main(flags(nih, *BACKBONE, "--overwrite", "--seed", "1"))
    train.main(["--resume", "runs/cut", "--device", "cpu"])
    for part in ("best", "last"):
        one, two = (open(f"runs/{run}/{part}/model.safetensors", "rb").read() for run in ("whole", "cut"))
        assert one == two
    assert log("runs/cut") == log("runs/whole")


@pytest.mark.slow
def test_a_backbone_that_saw_the_test_patients_is_named(nih, backbone, capsys):
    """Another fold than that of the run it comes from: the measured number would be too good, and a line says so."""
    train.main(flags(nih, "--model", "probe", "--pretrained", backbone, "--fold", "1", "--name", "a"))
    assert "WARNING: vit, from which it started, learned from" in capsys.readouterr().out
    for name in ("runs/vit", "runs/vit/best", "runs/vit/best/model.safetensors", "runs/vit:model.safetensors"):
        assert run_around(name) == "runs/vit"                      # however it is spelled
    assert run_around("") is run_around("org/vit") is None


@pytest.mark.parametrize("target, more, balanced", (("pneumonia", (), True), ("pneumonia", ("--no-balanced",), False), ("Edema,Mass", (), False)))
def test_batches_are_balanced_where_there_are_classes(nih, target, more, balanced):
    """By default; a task of labels has no classes that could be, and trains all the same."""
    args = parse(flags(nih, "--model", "cnn", "--image", "27", "--target", target, *more))
    batches = prepare(args, torch.device("cpu")).batches
    assert (batches.classes is not None) == balanced


@pytest.mark.parametrize("more, message", (
    (("--model", "probe"), "--model probe needs --pretrained"),
    (("--model", "probe", "--pretrained", "x", "--dropout", "0.2"), "--dropout belongs to --model"),
    (("--model", "probe", "--pretrained", "x", "--patch", "8"), "--patch belongs to --model"),
    (("--model", "cnn", "--pretrained", "x"), "--pretrained belongs to --model"),
    (("--model", "cnn", "--image", "26"), "at least 27 px"),
    (("--model", "probe", "--pretrained", "x", "--head", "mean"), "--head: invalid choice: 'mean'"),
    (("--model", "vit", "--head", "class"), "--head belongs to --model probe, not to vit"),
    (("--model", "vit", "--target", "Edema,Mass", "--balanced"), "--balanced: findings, the first target, is a task of labels"),
), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_mistakes_end_in_one_line(nih, more, message):
    """What was given and what is needed, before anything is written."""
    with pytest.raises(ValueError) as error:
        train.main(flags(nih, *more))
    assert message in str(error.value) and "\n" not in str(error.value) and not os.path.exists("runs")

"""plumbing/checkpoints.py: files, folders, shards and the Hub, or one line why not; nothing in a file is ever run."""
import io
import json
import ntpath
import os
import pickle
import re
import types

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import errors

from plumbing import checkpoints
from plumbing.checkpoints import on_hub, read_checkpoint
from tests.hub import Hub, python
from tests.plumbing.small_checkpoints import IMAGENET, halves, hf, refusal, tiny, write
from vit import ViT


def test_shards_are_put_together(tmp_path):
    """The files that an index names, safetensors or pickles, hold one model between them."""
    for names in (("model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"),
                  ("pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "pytorch_model.bin.index.json")):
        folder, t = tmp_path / names[2], tiny()
        for file, part in zip(names, halves(t)):
            write(folder, part, file=file)
        weight_map = {key: file for file, part in zip(names, halves(t)) for key in part}
        (folder / names[2]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        loaded = ViT.from_pretrained(str(folder)).state_dict()
        assert set(loaded) == set(t) and all(torch.equal(loaded[key], tensor) for key, tensor in t.items())


def test_bad_shard_indices_are_refused(tmp_path):
    """A shard that is missing, that lies in another folder, or an index without a table of them."""
    write(tmp_path / "up", tiny())
    for i, index in enumerate(({}, [], {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": "gone.safetensors"}},
                               {"weight_map": {"a": "../up/model.safetensors"}},
                               {"weight_map": {"a": f"{tmp_path}/up/model.safetensors"}}, {"weight_map": {"a": "\ud800.safetensors"}})):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "model.safetensors.index.json").write_text(json.dumps(index))
        assert f"{tmp_path / str(i)}/model.safetensors.index.json" in refusal(ViT.from_pretrained, str(tmp_path / str(i)))


def test_a_shard_that_lacks_what_the_index_promises_is_refused(tmp_path):
    """Else its registers, or its biases of queries, would be taken to be none."""
    write(tmp_path, tiny(), file="model-00001-of-00002.safetensors")
    index = dict.fromkeys([*tiny(), "reg_token"], "model-00001-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert "the index of its shards promises reg_token, which is in none of them" in refusal(ViT.from_pretrained, str(tmp_path))


def test_names_that_are_nothing_are_refused(tmp_path):
    """Neither file, nor folder, nor Hub id; or a folder without weights."""
    for name in ("nothing", "", "a/b/c", "a b/c", "../up", "/no/such/file.safetensors", "org/name@", "~/x", "./x", "C:\\x", "org/name@../x", "https://huggingface.co/org/name"):
        assert refusal(ViT.from_pretrained, name).startswith(f"{name}: no such file or folder, and not taken for a Hub id (ORG/NAME, ORG/NAME@")
    assert "holds no weight file (.safetensors, " in refusal(ViT.from_pretrained, str(tmp_path))


def test_the_letter_of_a_disk_is_no_name_of_a_file(monkeypatch):
    """On Windows a mistyped path was refused for what stands behind its colon."""
    monkeypatch.setattr(checkpoints, "splitdrive", ntpath.splitdrive)
    monkeypatch.setattr(checkpoints, "isabs", ntpath.isabs)
    for name in ("C:\\weights\\vit.safetensors", "D:/weights/vit.safetensors"):
        assert refusal(ViT.from_pretrained, name).startswith(f"{name}: no such file or folder")


def test_a_lone_weight_file_of_any_name_is_found(tmp_path):
    """RETFound's, open_clip's, a training script's; what holds the state of a training is not a second one."""
    for i, file in enumerate(("RETFound_mae_natureCFP.pth", "open_clip_pytorch_model.bin", "open_clip_model.safetensors", "uni.bin", "last.ckpt")):
        folder = write(tmp_path / str(i), tiny(idx=i), {"mean": 0.25, "std": 0.5}, file=file)
        for other in ("optimizer.pt", "training_args.bin", "scheduler.pt", "README.md", "model.onnx"):
            (tmp_path / str(i) / other).write_bytes(b"x")
        for name in (folder, f"{folder}:{file}"):
            model = ViT.from_pretrained(name)
            assert torch.equal(model.norm.bias, tiny(idx=i)["norm.bias"]) and model.config.mean == (0.25,) * 3
        assert ViT.from_pretrained(f"{folder}/{file}").config.mean[0] == (0.25 if "open_clip" in file else 0.485)  # alone


def test_a_colon_chooses_among_several_files(tmp_path):
    """FOLDER:FILE, also in a folder below and of a run; without it the refusal lists what is there."""
    for i, file in enumerate(("a.pth", "b.safetensors", "best/c.pth")):
        write(tmp_path / os.path.dirname(file), tiny(idx=i), file=os.path.basename(file))
    folder = write(tmp_path / "two", tiny(idx=1), file="a.pth")
    write(folder, tiny(idx=2), {"mean": 0.25, "std": 0.5}, file="sub.pth")
    write(folder + "/sub", tiny(idx=3), file="model.safetensors")
    assert f"{folder}: holds several weight files; choose one as {folder}:FILE, there are a.pth, sub.pth" in refusal(ViT.from_pretrained, folder)
    assert f"{folder}: holds no c.pth; files there: 'a.pth', 'config.json', 'sub (no file)', 'sub.pth'" in refusal(ViT.from_pretrained, f"{folder}:c.pth")
    for name, i in ((f"{folder}:a.pth", 1), (f"{folder}:sub.pth", 2), (f"{folder}:sub/model.safetensors", 3), (f"{tmp_path}:c.pth", 2)):
        model = ViT.from_pretrained(name)
        assert torch.equal(model.norm.bias, tiny(idx=i)["norm.bias"]) and (model.config.mean[0] == 0.25) == ("two:" in name and i < 3)
    (tmp_path / "many").mkdir()
    for i in range(24):
        (tmp_path / "many" / f"{i:02}\033[0m.txt").touch()
    assert r"files there: '00\x1b[0m.txt', " in refusal(ViT.from_pretrained, str(tmp_path / "many")) and "and 4 more" in refusal(ViT.from_pretrained, str(tmp_path / "many"))


@pytest.mark.parametrize("file", ("../up/model.safetensors", "/etc/passwd", "a/../../b.pth", "..", "", "..\\b.pth"))
def test_a_colon_never_leads_out_of_the_folder(tmp_path, file, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    write(tmp_path / "up", tiny())
    write(tmp_path / "down", tiny())
    for name in (f"{tmp_path / 'down'}:{file}", f"org/name:{file}", f"org/name@main:{file}"):
        assert "after the colon stands a file in the folder or repository, without .. in its path" in refusal(ViT.from_pretrained, name)


def test_what_looks_local_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    """A mistyped run or file stays on this machine; the folder that would hold it says what it holds."""
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    monkeypatch.chdir(tmp_path)
    assert refusal(ViT.from_pretrained, "runs/vit") == "runs/vit: no such file or folder, and not taken for a Hub id (ORG/NAME, ORG/NAME@revision, or either with :FILE)"
    write("runs/vit-1", tiny())
    write("weights", tiny())
    assert refusal(ViT.from_pretrained, "runs/vit").startswith("runs/vit: no such file or folder, and not taken for a Hub id") and refusal(ViT.from_pretrained, "runs/vit").endswith("; in runs: 'vit-1'")
    for name in ("weights/vit", "runs/vit:a.pth", "runs/vit@v1", "org/vit.pth", "org/vit.safetensors:a"):
        assert "not taken for a Hub id" in refusal(ViT.from_pretrained, name)
    assert "runs/a/b: no such file or folder" in refusal(ViT.from_pretrained, "runs/a/b")
    assert on_hub("weights/vit@v1") and on_hub("org/vit")          # a folder here has no revisions


def test_files_that_hold_no_weights_are_refused(tmp_path):
    """Text under any name, empty and truncated files, a bare tensor, a whole module: the path, and why."""
    truncated = write(tmp_path, tiny()) + "/model.safetensors"
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with open(truncated, "r+b") as stream:
        stream.truncate(os.path.getsize(truncated) - 100)
    for name, content in (("text.safetensors", b"<html>404</html>"), ("empty.safetensors", b""), ("text.pth", b"hello"),
                          ("empty.bin", b""), ("page.bin", b"<html>404</html>"), ("image.png", b"\x89PNG\r\n"),
                          ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\noid"), ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n")):
        (tmp_path / name).write_bytes(content)
        assert re.match(rf"{tmp_path}/{name}: not a ", refusal(ViT.from_pretrained, str(tmp_path / name)))
    assert "not a readable weight file (Error while deserializing header" in refusal(ViT.from_pretrained, truncated)
    assert "holds no tensors by name, but a Tensor" in refusal(ViT.from_pretrained, str(tmp_path / "tensor.pt"))
    assert "asks to run torch.nn.modules.linear.Linear" in refusal(ViT.from_pretrained, str(tmp_path / "module.pt"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_malicious_pickles_do_not_run(tmp_path):
    """Neither torch's zip format nor a bare pickle runs what it asks for, and the message never advises to let it."""
    ran = tmp_path / "ran"
    torch.save({"model": {"cls_token": Malicious(ran)}}, tmp_path / "zip.pth")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps({"cls_token": Malicious(ran)}, protocol=2))
    for name in ("zip.pth", "bare.bin"):
        message = refusal(ViT.from_pretrained, str(tmp_path / name))
        assert f"not a pickle of plain tensors, it asks to run {os.system.__module__}.system" in message
        assert "weights_only" not in message
    assert not ran.exists()


# -----------------------------------------------------------------------------
# the Hub, served on loopback

ASK = """
import json, sys, time
time.sleep = lambda seconds: None                                  # between the retries
import torch
torch.set_num_threads(1)
from vit import ViT
answers = {}
for name in NAMES:
    try:
        model = ViT.from_pretrained(name)
        answers[name] = [model.norm.bias[0].item(), *model.config.mean, model.report]
    except ValueError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


def pth(idx):
    """-> the bytes of a .pth file, as training scripts write it."""
    stream = io.BytesIO()
    torch.save({"model": tiny(idx=idx)}, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What from_pretrained answered for each name, online and then offline with the server gone; and the requests."""
    home = tmp_path_factory.mktemp("hub")
    files = {"model.safetensors": safetensors.torch.save(tiny()), "config.json": json.dumps(hf(3)).encode()}
    other = {**files, "model.safetensors": safetensors.torch.save(tiny(idx=1)),
             "preprocessor_config.json": json.dumps(IMAGENET).encode()}
    parts = halves(tiny())
    weight_map = dict.fromkeys(parts[0], "s1.safetensors") | dict.fromkeys(parts[1], "s2.safetensors")
    index = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    first, second = (safetensors.torch.save(part) for part in parts)
    repos = {"org/vit": {"main": files, "v1.0": other}, "org/unseen": {"main": files}, "org/gated": "gated",
             "org/shards": {"main": {**index, "s1.safetensors": first, "s2.safetensors": second}},
             "org/part": {"main": {**index, "s1.safetensors": first}}, "org/empty": {"main": {"README.md": b""}},
             "org/cut": {"main": {"model.safetensors": bytes(100_000)}},
             "org/retfound": {"main": {"README.md": b"", ".gitattributes": b"", "RETFound_cfp.pth": pth(0)}},
             "org/two": {"main": {"a.pth": pth(1), "sub/b.pth": pth(2), "sub/config.json": b'{"mean": 0.25, "std": 0.5}'}}}
    online = [*(name for name in repos if name != "org/unseen"), "org/two:a.pth", "org/two@main:sub/b.pth", "org/two:c.pth", "org/vit@v1.0", "org/vit@v9", "org/nothing", "org/a..b"]
    offline = ["org/retfound", "org/two@main:sub/b.pth", "org/vit", "org/vit@v1.0", "org/shards", "org/unseen", "org/vit@v9"]
    with Hub(repos, cut=["/org/cut/resolve/main/model.safetensors"]) as hub:
        first = json.loads(python(f"NAMES = {online}{ASK}", home, hub.url))          # HF_ENDPOINT is this server
        requests = list(hub.requests)
    second = json.loads(python(f"NAMES = {offline}{ASK}", home, hub.url, offline=True))
    return types.SimpleNamespace(online=first, offline=second, requests=requests)


@pytest.mark.slow
def test_hub_files_are_downloaded_once_and_then_found_offline(asked):
    """Weights and config.json come from the Hub, one file of weights only; with the server gone they are the same."""
    for answers in (asked.online, asked.offline):
        assert answers["org/vit"][:4] == [pytest.approx(tiny()["norm.bias"][0].item()), 0.5, 0.5, 0.5]
        assert answers["org/vit"][4] == "loaded 30/30 tensors from org/vit, mean 0.5 0.5 0.5 std 0.5 0.5 0.5 (assumed)" and isinstance(answers["org/shards"], list)
    downloads = [request for request in asked.requests if request.startswith("GET /org/vit/resolve/main")]
    assert sorted(downloads) == [f"GET /org/vit/resolve/main/{file}" for file in ("config.json", "model.safetensors")]


@pytest.mark.slow
def test_hub_revision_is_the_one_asked_for(asked):
    """ORG/NAME@revision has other weights and another preprocessor_config.json; one that is not there is named."""
    for answers in (asked.online, asked.offline):
        assert answers["org/vit@v1.0"][:4] == pytest.approx([tiny(idx=1)["norm.bias"][0].item(), 0.485, 0.456, 0.406])
    assert asked.online["org/vit@v9"] == "org/vit@v9: has no such revision"
    assert "org/vit@v9: model.safetensors is not in the cache" in asked.offline["org/vit@v9"]


@pytest.mark.slow
def test_hub_files_of_another_name_are_found(asked):
    """A repository with one .pth, as RETFound's; ORG/NAME:FILE of several, with the config.json beside it; and offline the same."""
    for answers in (asked.online, asked.offline):
        assert answers["org/retfound"][:2] == pytest.approx([tiny()["norm.bias"][0].item(), 0.485])
        assert answers["org/two@main:sub/b.pth"][:2] == pytest.approx([tiny(idx=2)["norm.bias"][0].item(), 0.25])
    assert asked.online["org/two:a.pth"][:2] == pytest.approx([tiny(idx=1)["norm.bias"][0].item(), 0.485])
    assert asked.online["org/two"] == "org/two: holds several weight files; choose one as org/two:FILE, there are a.pth, sub/b.pth"
    assert asked.online["org/two:c.pth"] == "org/two: holds no c.pth; files there: 'a.pth', 'sub/b.pth', 'sub/config.json'"


@pytest.mark.slow
def test_hub_refusals_are_one_clear_line(asked):
    """No repository, no weights, terms to accept, a missing shard, a broken download, a name that cannot be, no network."""
    expected = {"org/nothing": "no such repository on the Hub", "org/gated": "is gated; accept its terms",
                "org/empty": "holds no weight file (.safetensors, .bin, .pt, .pth, .ckpt, .tar); files there: 'README.md'", "org/cut": "model.safetensors could not be downloaded",
                "org/part": "not an index of shards that lie beside it (it names 2 shards; missing: s2.safetensors)",
                "org/a..b": "could not be downloaded: Cannot have -- or .. in repo_id"}
    for name, words in expected.items():
        assert words in asked.online[name] and "\n" not in asked.online[name]
    assert "model.safetensors is not in the cache, and the Hub at" in asked.offline["org/unseen"]


def test_unreachable_hub_is_said_and_known_absences_are_remembered(monkeypatch):
    """Without a network a file that the Hub once said it has not is still absent; any other is an error with the address."""
    def unreachable(*args, **kwargs):
        raise errors.LocalEntryNotFoundError("An error happened\nwhile trying")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    assert re.fullmatch(r"org/name: model.safetensors is not in the cache, and the Hub at http\S+ cannot be reached or is switched off \(HF_HUB_OFFLINE\).*",
                        refusal(read_checkpoint, "org/name"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: huggingface_hub._CACHED_NO_EXIST)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", unreachable)
    assert "holds no weight file" in refusal(read_checkpoint, "org/name")

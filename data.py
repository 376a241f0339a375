"""From pictures and volumes to batches: decode, crop, augment, stack.

    picture        one decode and one crop give the low and the high resolution
    volume, bag    an array (D, H, W), (C, D, H, W) or (S, F) of a .npy, .npz or .pt file
    Samples        one sample is one patient with up to N photographs, or one image
    batch          dict: images (B, N, C, h, w), images_hr (B, N, C, R h, R w) and present (B, N), or image (B, C, h, w),
                   for volumes (B, C, d, h, w), or bag (B, S, F) and bag_mask (B, S), True for the S vectors a bag has,
                   or features (B, 1 + T, D), what a frozen model once said of the image, read from disk;
                   tabular (B, P), the patient's table, where columns were asked for;
                   targets {task: (B,), or (B, L) for labels, (B, 2) for time and event}, float, NaN where unknown;
                   patient, path, index, number: lists

Images and volumes stay uint8 until they are on the device: the model normalizes them.
Everything random is drawn from (seed, epoch, sample), so neither the number of workers or processes nor a resumed run changes anything.
Run: python data.py [IMAGE ...]                    times the reading of pictures, or of a drawn one of 12 megapixels
"""
import hashlib
import io
import math
import os
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from huggingface_hub.utils import tqdm
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
ARRAYS = (".npy", ".npz", ".pt")
VERSION = 1                                                        # of what read_image and read_volume make: one more, and caches start anew
LARGEST = 2 ** 32                                                  # bytes of an array; a header that says more is taken for a lie
AUGMENT = ("crop", "hflip", "vflip", "dflip", "rot90")             # flips of width, height and depth
CROP = 0.1                                                         # the largest share of a side that is cut off, at each of its ends
IMAGES = {0: "bags of vectors", 2: "pictures", 3: "volumes"}       # by their axes

# -----------------------------------------------------------------------------
# pictures


def read_image(source, size, r=1, channels=3, crop=(0.0, 0.0, 0.0, 0.0), name=None):
    """File or uint8 array -> uint8 (C, h, w), and (C, R h, R w) of the same pixels when R > 1, otherwise None.

    size: (h, w); the aspect ratio is not kept. crop: shares cut off left, top, right, bottom. One decode, with JPEG's own
    downscaling to what the larger picture needs; the smaller is the R x R mean of the larger, so a low-resolution patch and
    its R x R high-resolution ones show the same skin. 16-bit and float pictures are stretched from their own range."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)                   # Pillow's limit on pixels stops, here
            picture = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source, formats=FORMATS)
        mode = "L" if channels == 1 else "RGB"
        need = math.ceil(r * max(size) / (1 - max(crop[0] + crop[2], crop[1] + crop[3])))    # px a side, either way up
        picture.draft(mode, (need, need))                          # of use for JPEG, without effect otherwise
        ImageOps.exif_transpose(picture, in_place=True)            # without it the whole picture is copied, turned or not
        if picture.mode.startswith(("I", "F")):
            wide = np.asarray(picture, dtype=np.float64)
            if not np.isfinite(wide).all():
                raise ValueError("holds values that are not finite")
            picture = Image.fromarray(np.uint8(255 * (wide - wide.min()) / max(wide.max() - wide.min(), 1e-12)))
        picture = picture if picture.mode == mode else picture.convert(mode)     # convert copies in any case
        width, height = picture.size
        box = (crop[0] * width, crop[1] * height, (1 - crop[2]) * width, (1 - crop[3]) * height)
        high = picture.resize((r * size[1], r * size[0]), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        low = high.reduce(r) if r > 1 else high
    except Exception as error:                                     # Pillow raises many kinds for broken files
        raise ValueError(f"{name or source}: not a readable image ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    arrays = [np.asarray(image).reshape(*image.size[::-1], channels).transpose(2, 0, 1) for image in (low, high)]
    return arrays[0], arrays[1] if r > 1 else None


# -----------------------------------------------------------------------------
# arrays


def axes_of(cohort):
    """How many axes its images have, 2 or 3, or 0 for bags of vectors; the first of them tells."""
    if cohort.pixels is not None:
        return 3 if cohort.pixels.ndim == 4 and cohort.pixels.shape[-1] != 3 else 2
    if not cohort.paths[0].lower().endswith(ARRAYS):
        return 2
    return 0 if read_array(cohort.paths[0]).ndim == 2 else 3


def read_array(path):
    """.npy, .npz with one array in it, or .pt with one tensor -> array of finite numbers. No object is unpickled, and no more memory
    is taken than LARGEST, whatever the header says."""
    try:
        if path.lower().endswith(".pt"):
            array = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(array, torch.Tensor):
                raise ValueError(f"holds a {type(array).__name__}, need one tensor")
            if array.numel() * array.element_size() > LARGEST:     # one number in the file may stand for all of them
                raise ValueError(f"says it is {tuple(array.shape)}, more than {LARGEST >> 30} GiB")
            array = array.detach()
            array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)         # a .npy that is shorter than its header says is refused here
        if isinstance(array, np.lib.npyio.NpzFile):
            with array as arrays:
                if len(arrays.files) != 1:
                    raise ValueError(f"holds {len(arrays.files)} arrays, need one")
                if arrays.zip.infolist()[0].file_size > LARGEST:
                    raise ValueError(f"unpacks to {arrays.zip.infolist()[0].file_size >> 30} GiB, more than {LARGEST >> 30}")
                array = arrays[arrays.files[0]]
        array = array if array.flags.writeable else np.array(array)          # a map of the file becomes memory
    except Exception as error:                                     # numpy, zip and zlib raise many kinds
        raise ValueError(f"{path}: not a readable array ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    if array.dtype.kind not in "buif" or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{path}: {array.dtype} {array.shape}, need numbers, at least one, all of them finite")
    return array


def read_volume(source, size, channels=1, crop=(0.0, 0.0, 0.0, 0.0), name=None):
    """File or array, (D, H, W) or (C, D, H, W) -> uint8 (C, d, h, w), size: (d, h, w); one channel is copied to as many as asked.

    crop: shares cut off left, top, right, bottom of every slice. Types other than uint8 are stretched, each channel from its own
    range. Axes that shrink are averaged, those that grow are interpolated."""
    volume = source if isinstance(source, np.ndarray) else read_array(source)
    if volume.ndim not in (3, 4):
        raise ValueError(f"{name or source}: {volume.shape}, need a volume (D, H, W) or (C, D, H, W)")
    volume = volume.reshape(-1, *volume.shape[-3:])
    if len(volume) not in (1, channels):
        raise ValueError(f"{name or source}: {len(volume)} channels of {volume.shape[1:]}, need 1 or {channels}; --channels says how many")
    if volume.dtype != np.uint8:
        low, high = (edge(volume, axis=(1, 2, 3), keepdims=True).astype(float) for edge in (np.min, np.max))
        volume = np.uint8(255 * (volume - low) / np.maximum(high - low, 1e-12))
    height, width = volume.shape[2:]
    top, left, bottom, right = round(crop[1] * height), round(crop[0] * width), round(crop[3] * height), round(crop[2] * width)
    volume = volume[:, :, top:height - bottom, left:width - right]
    if volume.shape[1:] != tuple(size):
        x = torch.from_numpy(np.ascontiguousarray(volume)).float()[None]
        x = F.interpolate(x, size=[min(s, side) for s, side in zip(size, x.shape[2:])], mode="area")
        volume = F.interpolate(x, size=tuple(size), mode="trilinear")[0].round().byte().numpy()
    return np.broadcast_to(volume, (channels, *size))


def read_bag(path, width):
    """File -> float32 (S, F), F = width."""
    bag = read_array(path)
    if bag.ndim != 2 or bag.shape[1] != width:
        raise ValueError(f"{path}: {bag.shape}, need a bag of vectors (S, {width})")
    return bag.astype(np.float32)


def read(cohort, i, size, r=1, channels=3, crop=(0.0, 0.0, 0.0, 0.0)):
    """Image i of a cohort -> as read_image, or read_volume and None."""
    source = cohort.paths[i] if cohort.pixels is None else cohort.pixels[i]
    if len(size) == 3:
        return read_volume(source, size, channels, crop, cohort.paths[i]), None
    return read_image(source, size, r, channels, crop, cohort.paths[i])


def digest(cohort, *what):
    """-> 32 digits, other ones when anything in `what` differs, the version of a reader, or path, length or time of an image file
    (or the pixels)."""
    key = hashlib.sha256(repr((what, VERSION, PIL.__version__, torch.__version__)).encode())
    if cohort.pixels is not None:
        key.update(repr(cohort.pixels.shape).encode()), key.update(np.ascontiguousarray(cohort.pixels))
    for path in cohort.paths if cohort.pixels is None else ():
        about = os.stat(path)
        key.update(repr((os.path.abspath(path), about.st_size, about.st_mtime_ns)).encode())
    return key.hexdigest()[:32]


@cache
def mapped(path, shape):
    """uint8 file of that shape, mapped into memory; made, with holes that take no disk, where there is none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if os.fstat(file.fileno()).st_size != math.prod(shape):
            file.truncate(math.prod(shape))
    return np.memmap(path, np.uint8, "r", shape=shape)


class Decoded:
    """What reading made of the images, kept as folder/decoded/KEY.u8, one row an image, which the first to read an image fills.

    crop False: a row holds the pixels as the model takes them, both resolutions, and reading is a copy. crop True: a picture as
    large as the largest crop needs, from which every epoch cuts its own; cut from there a picture differs by about a grey value
    from one cut from the file. A row's last byte becomes 1 when the others are in place, so any number of workers, processes
    and runs may fill the file at once: they write the same. KEY is the digest of the image files and of all that is
    done to them; what is no longer wanted can be deleted, and after a power failure all should be: nothing waits for the disk."""

    def __init__(self, cohort, folder, size, r, channels, crop):
        self.cohort, self.size, self.r, self.channels, self.crop = cohort, size, r, channels, crop
        self.wide = [math.ceil(r * side / (1 - 2 * CROP)) for side in size]
        shape = len(cohort.paths), 1 + channels * (math.prod(self.wide) if crop else math.prod(size) * (1 if r == 1 else 1 + r ** 2))
        self.file = os.path.join(folder, "decoded", digest(cohort, size, r, channels, crop) + ".u8"), shape
        try:
            mapped(*self.file)
        except OSError as error:
            raise OSError(f"{self.file[0]}: the cache of decoded images cannot be made ({error}); --cache-dir says where it goes") from error

    def read(self, i, crop):
        """-> as read_image."""
        row = mapped(*self.file)[i]
        if not row[-1]:
            row = self.fill(i)
        if self.crop:
            row = row[:-1].reshape(*self.wide, self.channels)
            return read_image(row[:, :, 0] if self.channels == 1 else row, self.size, self.r, self.channels, crop, self.cohort.paths[i])
        low, high = np.split(row[:-1], [self.channels * math.prod(self.size)])
        return low.reshape(self.channels, *self.size), high.reshape(self.channels, *(self.r * side for side in self.size)) if self.r > 1 else None

    def fill(self, i):
        """Read image i and write its row -> the row."""
        if self.crop:
            pictures = [read(self.cohort, i, self.wide, 1, self.channels)[0].transpose(1, 2, 0)]
        else:
            pictures = [picture for picture in read(self.cohort, i, self.size, self.r, self.channels) if picture is not None]
        row = np.concatenate([*(np.ravel(picture) for picture in pictures), np.ones(1, np.uint8)])
        path, shape = self.file
        try:
            with open(path, "r+b", buffering=0) as file:
                for start, part in ((i * shape[1], row[:-1]), ((i + 1) * shape[1] - 1, row[-1:])):
                    file.seek(start)
                    if file.write(part) < len(part):
                        raise OSError("the disk is full")
        except OSError as error:
            raise OSError(f"{path}: the cache of decoded images cannot grow ({error}); make room, or leave out --cache") from error
        return row


# -----------------------------------------------------------------------------
# samples and batches


class Samples(torch.utils.data.Dataset):
    """Samples of a cohort, to be asked for by (epoch, number).

    n None: one image a sample, batch entry `image`. n = N: one patient a sample, `images` and `present`, also `images_hr`
    when r > 1; with more than N images, training draws N anew each epoch, and evaluation has ceil(images / N) samples of
    the patient. size: (h, w) of pictures, (d, h, w) of volumes, () of bags, then `channels` is the width of a vector and the
    batch entry `bag`. augment: any of AUGMENT, for training only; crop cuts up to 10 % off each border. folder: where decoded images
    are kept for the next time, see Decoded. Sample ~number stands for sample number where a batch needs one more: no target is
    known, and it is of no image (`index` is empty)."""

    def __init__(self, cohort, indices, size, n=None, r=1, channels=3, augment=(), train=False, seed=0, folder=None):
        self.cohort, self.size, self.n, self.r, self.channels, self.seed = cohort, size, n, r, channels, seed
        self.augment = augment if train else ()
        self.kept = Decoded(cohort, folder, size, r, channels, "crop" in self.augment) if folder else None
        self.samples = [[i] for i in indices]
        if n:
            groups = cohort.groups(indices).values()
            self.samples = list(groups) if train else [group[i:i + n] for group in groups for i in range(0, len(group), n)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, key):
        epoch, number = key
        if number < 0:
            sample = self[epoch, ~number]
            return {**sample, "index": [], "targets": {task: np.full_like(target, np.nan) for task, target in sample["targets"].items()}}
        chosen = self.samples[number]
        rng = np.random.default_rng((self.seed, epoch, number))
        if self.n and len(chosen) > self.n:
            chosen = [chosen[i] for i in sorted(rng.choice(len(chosen), self.n, replace=False))]
        sample = {"targets": {task.name: self.cohort.targets[task.name][chosen[0]] for task in self.cohort.tasks},
                  "patient": self.cohort.patients[chosen[0]], "path": [self.cohort.paths[i] for i in chosen],
                  "index": chosen, "number": number}
        if self.cohort.tabular is not None:
            sample["tabular"] = self.cohort.tabular[chosen[0]]
        if self.cohort.features is not None:
            return {**sample, "features": self.cohort.features[chosen[0]]}
        if not self.size:
            return {**sample, "bag": read_bag(self.cohort.paths[chosen[0]], self.channels)}
        pictures = [self.picture(i, rng) for i in chosen]
        if not self.n:
            return {**sample, "image": pictures[0][0]}
        sample["present"] = np.arange(self.n) < len(chosen)
        for j, name in enumerate(("images", "images_hr")[:1 + (self.r > 1)]):
            sample[name] = np.zeros((self.n, *pictures[0][j].shape), dtype=np.uint8)
            for slot, picture in zip(sample[name], pictures):
                slot[:] = picture[j]
        return sample

    def picture(self, i, rng):
        crop = rng.uniform(0, CROP, 4) if "crop" in self.augment else (0.0,) * 4
        if self.kept:
            low, high = self.kept.read(i, crop)
        else:
            low, high = read(self.cohort, i, self.size, self.r, self.channels, crop)
        for name, axis in (("hflip", -1), ("vflip", -2), ("dflip", -3))[:len(self.size)]:
            if name in self.augment and rng.random() < 0.5:
                low, high = np.flip(low, axis), None if high is None else np.flip(high, axis)
        if "rot90" in self.augment:
            turns = rng.integers(4) if self.size[-2] == self.size[-1] else 2 * rng.integers(2)     # a quarter needs a square
            low, high = np.rot90(low, turns, (-2, -1)), None if high is None else np.rot90(high, turns, (-2, -1))
        return low, high


def collate(samples):
    """List of samples -> batch."""
    batch = {key: [sample[key] for sample in samples] for key in ("patient", "path", "index", "number")}
    for key in ("image", "images", "images_hr", "present", "features", "tabular"):
        if key in samples[0]:
            batch[key] = torch.from_numpy(np.stack([sample[key] for sample in samples]))
    if "bag" in samples[0]:
        longest = max(len(sample["bag"]) for sample in samples)
        batch["bag"] = torch.zeros(len(samples), longest, samples[0]["bag"].shape[1])
        batch["bag_mask"] = torch.zeros(len(samples), longest, dtype=torch.bool)
        for i, sample in enumerate(samples):
            batch["bag"][i, :len(sample["bag"])] = torch.from_numpy(sample["bag"])
            batch["bag_mask"][i, :len(sample["bag"])] = True
    batch["targets"] = {task: torch.from_numpy(np.stack([sample["targets"][task] for sample in samples]))
                        for task in samples[0]["targets"]}
    return batch


class Batches:
    """Batch sampler whose order depends on (seed, epoch) only; set `epoch` before each pass, `start` to skip batches.

    Of `world` processes the one of that rank has every world-th sample of each batch, at least one: see ~number in Samples.
    fill: so many more that all batches are equally long, as compiled models like it.

    classes: one entry a sample; with it every batch holds as many samples of each class, to within one. An epoch stays as long
    as it was: of the frequent classes other samples come in another epoch, those of the rare ones come more than once."""

    def __init__(self, length, batch_size, seed=0, shuffle=False, classes=None, rank=0, world=1, fill=False):
        self.length, self.batch_size, self.seed, self.shuffle, self.classes = length, batch_size, seed, shuffle, classes
        self.rank, self.world, self.least = rank, world, -(-batch_size // world) if fill else 1
        self.epoch = self.start = 0

    def __len__(self):
        return -(-self.length // self.batch_size) - self.start

    def __iter__(self):
        order = range(self.length)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch, self.length))
            order = rng.permutation(self.length).tolist()
            if self.classes is not None:
                each = [np.flatnonzero(self.classes == c) for c in np.unique(self.classes)]
                share = -(-self.length // len(each))
                turns = [np.resize(rng.permutation(numbers), share) for numbers in each]     # resize repeats
                order = np.stack(turns, 1).ravel()[:self.length].tolist()                    # one of each class in turn
        for i in range(self.start * self.batch_size, self.length, self.batch_size):
            batch = order[i:i + self.batch_size]
            mine = batch[self.rank::self.world]
            yield [(self.epoch, number) for number in [*mine, *[~batch[0]] * (self.least - len(mine))]]


def patient(worker):
    """A signal to a whole group of processes, as schedulers and terminals send it, is for the one that trains: it saves, and ends its
    workers. One that it did not end within 5 s of a SIGTERM ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):                                 # not on Windows
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(5))


class Loader(torch.utils.data.DataLoader):
    """Where no worker process reads, a thread makes the next batch while the model computes: decoding needs little of Python's lock,
    and small models leave a core idle. `waited`: seconds that whoever asked for a batch had to wait, all passes together."""
    waited = 0.0

    def __iter__(self):
        stream = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            ahead = None if self.num_workers else thread.submit(next, stream, None)
            while True:
                began = time.perf_counter()
                batch = ahead.result() if ahead else next(stream, None)
                self.waited += time.perf_counter() - began
                if batch is None:
                    return
                ahead = ahead and thread.submit(next, stream, None)
                yield batch


def make_loader(samples, batch_size, seed=0, shuffle=False, workers=0, pin_memory=False, classes=None, **share):
    """-> Loader, and its Batches, whose epoch is to be set. share: rank, world and fill of Batches."""
    batches = Batches(len(samples), batch_size, seed, shuffle, classes, **share)
    loader = Loader(samples, batch_sampler=batches, collate_fn=collate, num_workers=workers, pin_memory=pin_memory,
                    persistent_workers=workers > 0, worker_init_fn=patient,
                    generator=torch.Generator())                   # so that it draws no seed from dropout's random numbers
    return loader, batches


# -----------------------------------------------------------------------------
# features of a frozen model


def cached_features(cohort, model, folder, size, channels, device, workers=0):
    """-> float32 (images, 1 + T, D), memory-mapped: model.tokens of every image of the cohort; and a line that says whence.

    They are computed once and kept as folder/features/KEY.npy. KEY is a digest of all they depend on: the tensors of the frozen
    model.vit and its config, size and channels of the images, and path, length and time of every image file (or the pixels);
    so nothing in the folder is ever out of date, and what is no longer wanted can be deleted. The file appears whole or not at
    all; of two runs that make it at once each writes its own, and the last to end replaces an equal one."""
    weights = hashlib.sha256()
    for name, tensor in model.vit.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    key = digest(cohort, model.config.vit, size, channels, device.type, weights.hexdigest())
    path = os.path.join(folder, "features", key + ".npy")
    whence, shape = "read from", (len(cohort.paths), 1 + model.config.vit.tokens, model.config.vit.dim)
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part, began = f"{path}.{os.getpid()}.part", time.perf_counter()
        loader, _ = make_loader(Samples(cohort, range(len(cohort.paths)), size, channels=channels), 16, workers=workers)
        model.eval()
        try:
            with open(part, "wb") as file:
                np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for batch in tqdm(loader, desc="features, once", disable=None):
                    file.write(model.tokens(batch["image"].to(device)).cpu().numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            whence = f"computed in {time.perf_counter() - began:.0f} s, now in"
        finally:
            if os.path.exists(part):
                os.remove(part)
    try:
        features = np.load(path, mmap_mode="r")
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, not {shape}")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a file of features ({error}); delete it, it will be made again") from error
    return features, f"features of {len(features)} images {whence} {path} ({os.path.getsize(path) / 1e6:.0f} MB)"


def main(paths):
    if not paths:
        picture = Image.effect_noise((40, 30), 200).resize((4000, 3000)).convert("RGB")
        picture.save(drawn := io.BytesIO(), "JPEG")
    for source in paths or [drawn]:
        start = time.perf_counter()
        low, high = read_image(source, (384, 384), r=2)
        print(f"{source if paths else '4000 x 3000 JPEG'}: {low.shape} and {high.shape} in {1000 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))

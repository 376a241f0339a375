"""plumbing/dicom.py: what a DICOM file's numbers mean reaches the model, and a header that lies takes no memory."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from plumbing.arrays import read_values, read_volume
from plumbing.formats import format_of, is_image
from plumbing.headers import axes_in, read_header
from plumbing.pictures import read_image
from plumbing.reading import notes_on_files, notes_on_window
from tests.plumbing.small_tables import cohort_of


RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)       # 12 bits


def write(path, pixels, photometric="MONOCHROME2", **tags):
    """An uncompressed DICOM file -> its path."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM files are written by pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    is_color = photometric in ("RGB", "YBR_FULL")
    frames = pixels.ndim == 3 and not is_color
    shape = pixels.shape[1:] if frames else pixels.shape
    file.Rows, file.Columns = shape[:2]
    file.SamplesPerPixel = 3 if is_color else 1
    if is_color:
        file.PlanarConfiguration = 0
    if frames:
        file.NumberOfFrames = len(pixels)
    file.PhotometricInterpretation = photometric
    file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(str(path), enforce_file_format=True)
    return str(path)


def test_slope_intercept_and_window_of_the_file(tmp_path):
    """Hounsfield units 2 x - 1000 in the window 40, 400, whose edges DICOM puts at -160 and 239."""
    path = write(tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[40, 0], WindowWidth=[400, 1])
    units = 2.0 * RAMP - 1000
    expected = np.clip(255 * (units + 160) / 399, 0, 255).astype(int)
    low, _ = read_image(path, (8, 8), channels=1)
    assert np.abs(low[0].astype(int) - expected).max() <= 1 and 0 < np.count_nonzero((expected > 0) & (expected < 255))
    assert read_header(path).window == (-160, 239) and read_header(path).shape == (8, 8) and axes_in(read_header(path)) == 2


def test_the_window_of_the_command_line_counts_more(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, WindowCenter=40, WindowWidth=400)
    low, _ = read_image(path, (8, 8), channels=1, window=[(0, 4095)])
    assert np.abs(low[0].astype(int) - RAMP.astype(int) * 255 // 4095).max() <= 1


def test_monochrome1_is_inverted(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, "MONOCHROME1")
    low, _ = read_image(path, (8, 8), channels=1, window=[(0, 4095)])
    assert np.abs(low[0].astype(int) - (255 - RAMP.astype(int) * 255 // 4095)).max() <= 1


def test_signed_numbers(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP.astype(np.int16) - 1024)
    assert read_values(path).array.min() == -1024 and read_header(path).type == "int16"


def test_several_frames_are_a_volume(tmp_path):
    """In their order, with the values of each."""
    frames = np.stack([RAMP // 2, RAMP, RAMP[::-1]])
    path = write(tmp_path / "a.dcm", frames, RescaleIntercept=-5)
    volume = read_volume(path, (3, 8, 8), window=[(-5, 4090)])
    np.testing.assert_array_equal(volume[0], np.uint8(255 * (frames / 4095)))
    assert axes_in(read_header(path)) == 3


def test_colors(tmp_path):
    """RGB as it is, YBR as RGB: luminance 100 with chroma in the middle is grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", pixels, "RGB"), (8, 8))[0], pixels.transpose(2, 0, 1))
    grey = np.full((8, 8, 3), (100, 128, 128), np.uint8)
    assert (read_image(write(tmp_path / "b.dcm", grey, "YBR_FULL"), (8, 8))[0] == 100).all()


def test_a_file_without_ending_is_known_by_its_magic(tmp_path):
    """As scanners name them; a text file beside it is none."""
    for name in ("IM000001", "1.2.840.113619.2.5"):
        path = write(tmp_path / name, RAMP)
        assert is_image(path) and format_of(path) == "DICOM"
        assert read_image(path, (8, 8), channels=1, window=[(0, 4095)])[0][0, 7, 7] == 255 * 4032 // 4095
    (tmp_path / "README").write_text("no image " * 40)
    assert not is_image(str(tmp_path / "README"))


@pytest.mark.parametrize("tags, message", (
    ({"NumberOfFrames": 10 ** 9}, "says it holds 128000000000 bytes, the file has"),
    ({"NumberOfFrames": 10 ** 5}, "says it holds 12800000 bytes, the file has"),
    ({"Rows": 65535, "Columns": 65535}, "says it holds 8589672450 bytes, the file has"), ({"Rows": 9}, "says it holds 144 bytes, the file has|bytes"),
    ({"Rows": 0}, "says it has"), ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR, .* is not read"), ({"PhotometricInterpretation": "HSV"}, "HSV, .* is not read"),
    ({"VOILUTFunction": "SIGMOID", "WindowCenter": 1, "WindowWidth": 9}, "SIGMOID")))
def test_a_header_that_lies_is_refused(tmp_path, tags, message):
    """In one line with the file's name, by the first read_header, or at the latest when it is read."""
    path = write(tmp_path / "a.dcm", RAMP, **tags)
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
        read_values(path)
    assert str(error.value).startswith(f"{path}: not a readable image (") and "\n" not in str(error.value)


def test_a_file_without_its_letters_is_refused(tmp_path):
    """By a line of our own: pydicom's advises an argument that no program here takes."""
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_bytes(bytes(300))
    with pytest.raises(ValueError, match="a.dcm: not a readable image .lacks the letters DICM") as error:
        read_header(str(tmp_path / "a.dcm"))
    assert "force" not in str(error.value)


@pytest.mark.parametrize("name, package", (("a.dcm", "pydicom"), ("a.nii.gz", "nibabel")))
def test_without_the_package_a_line_says_what_to_install(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / name
    path.write_bytes(bytes(128) + b"DICM")
    for reader in (read_header, read_values):
        with pytest.raises(ValueError) as error:
            reader(str(path))
        assert f"pip install {package}" in str(error.value) and str(path) in str(error.value)


def test_eight_bits_with_a_window_are_not_said_to_be_more(tmp_path):
    """The window applies to them, too."""
    headers = {0: read_header(write(tmp_path / "a.dcm", (RAMP // 16).astype(np.uint8), WindowCenter=40, WindowWidth=80))}
    [line] = notes_on_window(SimpleNamespace(window="auto"), cohort_of("p", [0]), headers)
    assert line.startswith("1 of 1 images hold more than 8 bits or state a window, and the run has none: of each the one that its file states")


def test_slices_of_a_series_are_said(tmp_path):
    """Two files of one SeriesInstanceUID are pictures, and a line says what makes a volume of them."""
    headers = {i: read_header(write(tmp_path / f"{i}.dcm", RAMP, SeriesInstanceUID=uid)) for i, uid in enumerate(("1.2.3", "1.2.3", "1.2.4"))}
    lines = notes_on_files(headers, cohort_of("pqr", [0, 1, 2]))
    assert lines == ["3 DICOM files are slices of 2 series: each is read as a picture of its own; saved as one NIfTI or .npy file, a series is a volume"]


def test_a_person_who_is_several_patients_here_is_said(tmp_path):
    """PatientID in the files against the cohort's; the same in every file is no id."""
    def lines(*ids):
        headers = {i: read_header(write(tmp_path / f"{i}.dcm", RAMP, PatientID=name)) for i, name in enumerate(ids)}
        return notes_on_files(headers, cohort_of("pqr", [0, 1, 2]))
    assert lines("7", "007", "8")[0].startswith("WARNING: of 2 PatientIDs in the DICOM files 1 belong to several patients here, as to p, q")
    assert lines("7", "8", "9") == lines("ANON", "ANON", "ANON") == lines("", "", "") == []


def test_padding_and_reports(tmp_path):
    """PixelPaddingValue is no brightness; a file without a picture says so."""
    assert read_values(write(tmp_path / "a.dcm", RAMP, PixelPaddingValue=64)).padding == 64
    path = write(tmp_path / "b.dcm", RAMP)
    dataset = sys.modules["pydicom"].dcmread(path)
    del dataset.Rows, dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(ValueError, match="holds no picture, as a report"):
        read_header(path)


def test_numbers_that_stand_for_others_are_refused(tmp_path):
    """A modality's table also where a window is stated, which is of what the table gives; a display's table only where none is."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM files are written by pydicom")
    table, window = pydicom.Sequence([pydicom.Dataset()]), {"WindowCenter": 40, "WindowWidth": 400}
    for tags in ({"ModalityLUTSequence": table}, {"ModalityLUTSequence": table, **window}, {"VOILUTSequence": table}):
        with pytest.raises(ValueError, match="LUTSequence, by which its numbers are looked up, is not read"):
            read_header(write(tmp_path / "a.dcm", RAMP, **tags))
    assert read_header(write(tmp_path / "a.dcm", RAMP, VOILUTSequence=table, **window)).window == (-160, 239)


def test_what_pydicom_would_not_see_or_not_unpack_is_refused_by_the_header(tmp_path):
    """Twelve bits that end at bit 15; a compressed file without its decoder, with what to install."""
    with pytest.raises(ValueError, match="has its numbers in the upper bits"):
        read_header(write(tmp_path / "a.dcm", RAMP * 16, BitsStored=12, HighBit=15))
    path = write(tmp_path / "b.dcm", RAMP)
    dataset = sys.modules["pydicom"].dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
    dataset.PixelData = sys.modules["pydicom"].encaps.encapsulate([b"packed"])
    dataset.save_as(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
        with pytest.raises(ValueError, match=r'b.dcm: .*its decoder is missing: pip install "pylibjpeg\[all\]"'):
            read_header(path)


def test_windows_that_differ_between_frames_are_none_and_empty_tables_too(tmp_path):
    """As enhanced files state them: the run then fits its own. Slopes that differ are refused."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM files are written by pydicom")
    frames = []
    for center in (40, 50):
        frame = pydicom.Dataset()
        frame.WindowCenter, frame.WindowWidth, frame.RescaleSlope = center, 400, 2
        frames.append(frame)
    tags = {"PerFrameFunctionalGroupsSequence": pydicom.Sequence(frames), "VOILUTSequence": pydicom.Sequence()}
    values = read_values(write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), **tags))
    assert values.window is None and values.slope == 2
    frames[1].WindowCenter, frames[1].RescaleSlope = 40, 3
    with pytest.raises(ValueError, match="its frames differ in RescaleSlope"):
        read_header(write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), **tags))
    frames[1].RescaleSlope = 2
    assert read_header(write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), **tags)).window == (-160, 239)


def test_colors_that_share_their_chroma_are_no_lie(tmp_path):
    """YBR_FULL_422 takes two bytes a pixel: grey of 100 here, two pixels after the other, and their chroma."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    path = write(tmp_path / "a.dcm", grey, "YBR_FULL", PhotometricInterpretation="YBR_FULL_422", PixelData=bytes((100, 100, 128, 128)) * 2048)
    assert read_header(path).shape == (64, 64, 3) and (read_image(path, (64, 64))[0] == 100).all()

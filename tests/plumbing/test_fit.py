"""plumbing/fit.py: what the model sees of a photograph of another shape, and the way there and back."""
import numpy as np
import pytest
from PIL import Image

from plumbing.fit import frame, lost_shape, to_model
from plumbing.pictures import read_image
from tests.photographs import ramp, texture


def test_frames():
    """A photograph twice as wide as high for a square model."""
    assert frame(200, 100, (64, 64), "stretch") == (0, 0, 200, 100)
    assert frame(200, 100, (64, 64), "pad") == (0, -50, 200, 150)
    assert frame(200, 100, (64, 64), "crop") == (50, 0, 150, 100)
    assert frame(200, 100, (32, 64), "crop") == frame(200, 100, (32, 64), "pad") == (0, 0, 200, 100)


def test_a_box_where_the_model_sees_it():
    """The middle quarter of a photograph twice as wide as high; with crop a box may reach outside."""
    box = (50, 25, 150, 75)
    for fit, expected in (("stretch", (.25, .25, .75, .75)), ("pad", (.25, .375, .75, .625)), ("crop", (0, .25, 1, .75))):
        assert to_model(np.array(box), frame(200, 100, (64, 64), fit)).tolist() == list(expected)


def test_lost_shape():
    assert lost_shape((100, 200), (64, 64), "stretch") == lost_shape((200, 100), (64, 64), "crop") == 0.5
    assert lost_shape((100, 200), (64, 64), "pad") == 0 and lost_shape((96, 128), (48, 64), "stretch") == 0


@pytest.mark.parametrize("r", (1, 2))
def test_pad_shows_all_with_black_borders(r):
    """Rows of black above and below, between them the same as a model of that shape sees."""
    photograph = np.maximum(texture(80, 40), 1)
    for seen, plain in zip(read_image(photograph, (32, 32), r, fit="pad"), read_image(photograph, (16, 32), r)):
        if plain is not None:
            edge = seen.shape[1] // 4
            assert not seen[:, :edge - 1].any() and not seen[:, 1 - edge:].any()         # at the edge the two are mixed
            assert np.abs(seen[:, edge:-edge].astype(int) - plain)[:, 1:-1].max() <= 2


def test_crop_shows_the_middle():
    """Of a ramp to the right the middle half."""
    seen, _ = read_image(ramp(80, 40), (32, 32), fit="crop")
    expected, _ = read_image(np.ascontiguousarray(ramp(80, 40)[:, 20:60]), (32, 32))
    np.testing.assert_array_equal(seen, expected)


def test_crop_of_a_large_jpeg_keeps_its_detail(tmp_path):
    """JPEG's own downscaling leaves enough px of the part that is seen."""
    stripes = np.zeros((256, 1024), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.jpg", quality=95)
    assert read_image(str(tmp_path / "a.jpg"), (256, 256), channels=1, fit="crop")[0].std() > 100


def test_a_picture_too_long_to_be_padded_is_refused():
    with pytest.raises(ValueError, match=r"not a readable image \(Image size \(400000000 pixels\) exceeds limit"):
        read_image(np.zeros((2, 20000), np.uint8), (8, 8), fit="pad")

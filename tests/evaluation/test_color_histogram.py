import numpy as np
import pytest

from fashion_dml.evaluation.color_histogram import DIM, NEAR_WHITE, color_histogram
from fashion_dml.storage import UserError


def test_equals_a_plain_loop():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    images[:, 0] = 250
    found = color_histogram(images)
    assert found.shape == (3, DIM)
    assert found.dtype == np.float32
    for image, vector in zip(images, found, strict=True):
        counts = np.zeros((8, 8, 8))
        for r, g, b in image.reshape(-1, 3).tolist():
            if min(r, g, b) < NEAR_WHITE:
                counts[r // 32, g // 32, b // 32] += 1
        np.testing.assert_allclose(vector, np.sqrt(counts / counts.sum()).ravel(), atol=1e-6)


def test_ground_is_ignored_and_colours_differ():
    images = np.full((3, 10, 10, 3), 255, np.uint8)
    images[0, 2:8, 2:8] = (200, 10, 10)
    images[1, 4:6, 4:6] = (200, 10, 10)
    images[2, 4:6, 4:6] = (10, 10, 200)
    similarity = (vectors := color_histogram(images)) @ vectors.T
    assert similarity[0, 1] == pytest.approx(1)
    assert similarity[0, 2] == 0


def test_all_white_image_is_still_a_unit_vector():
    found = color_histogram(np.full((1, 4, 4, 3), 255, np.uint8))
    assert np.linalg.norm(found) == pytest.approx(1)
    assert color_histogram(np.empty((0, 4, 4, 3), np.uint8)).shape == (0, DIM)


@pytest.mark.parametrize("images", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3)), np.zeros((1, 0, 4, 3), np.uint8)])
def test_bad_input_is_refused(images):
    with pytest.raises(UserError, match=r"give uint8 of shape \[B, H, W, 3\]"):
        color_histogram(images)

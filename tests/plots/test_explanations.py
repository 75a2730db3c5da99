import numpy as np

from jaxvision.plots.explanations import plot_explanations


def test_few_pixels_do_not_leave_all_others_dark(tmp_path, figures):
    """One colour for the highest hundredth of a map of pixels; a grid is drawn as it is."""
    pixels = np.arange(400, dtype=np.float32).reshape(20, 20)
    pixels[3, 4] = 1e6
    grid = np.array([[0, 1], [2, 50]], np.float32)
    image = np.zeros((20, 20, 3), np.uint8)
    maps = {"smoothgrad": [pixels], "gradcam": [grid]}
    plot_explanations(image, ["cat"], maps, tmp_path / "a.png")
    drawn = [axes.images[1].get_clim() for axes in figures[0].axes[1:]]
    assert drawn[0][0] == 0 and 390 < drawn[0][1] < 400
    assert drawn[1] == (0, 50)

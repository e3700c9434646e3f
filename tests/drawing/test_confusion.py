"""The confusion matrix as an image, tested on the pixels."""

import numpy as np
import pytest

from deeplab_tf.drawing import confusion


@pytest.mark.parametrize("num_classes", [2, 4, 21, 150, 400])
def test_confusion_matrix_image_shows_rows_as_shares_of_their_label(num_classes):
    matrix = np.diag(np.arange(num_classes))  # the first does not occur
    matrix[1, 0] = 3  # in four
    colors = [(index // 200, index % 200, 50) for index in range(num_classes)]
    names = [f"a name of a class that is rather long {index}" for index in range(num_classes)]
    drawn = confusion.confusion_matrix_image(matrix, names, colors).astype(int)
    assert max(drawn.shape) < 2700

    cell = {2: 80, 4: 80, 21: 47, 150: 12, 400: 6}[num_classes]
    left, top = drawn.shape[1] - 8 - num_classes * cell, drawn.shape[0] - 8 - num_classes * cell

    def color(row, column):
        return drawn[top + row * cell + 2, left + column * cell + 2]

    def is_close(color, share, of):
        return np.allclose(color, 255 - np.sqrt(share) * (255 - np.array(of)), atol=1)

    assert is_close(color(1, 1), 1 / 4, confusion.RIGHT)
    assert is_close(color(1, 0), 3 / 4, confusion.WRONG)
    assert (color(0, 0) == 225).all() and (color(0, 1) == 225).all()
    last = num_classes - 1
    if last > 1:
        assert is_close(color(last, last), 1, confusion.RIGHT)
        assert (color(last, 0) == 255).all() and (color(0, last) == 225).all()
    # The colours of the classes stand beside them, in the order of the rows and columns.
    for index in (0, 1, last):
        assert tuple(drawn[top + index * cell + 3, left - 6]) == colors[index]
        assert tuple(drawn[top - 6, left + index * cell + 3]) == colors[index]

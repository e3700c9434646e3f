"""The evaluation as one HTML page that needs nothing beside itself.

    page (summary, classes, confusion, borders, images) -> charts, images, comparison -> markup

`page.css` and `page.js` are written into the page.
"""

from deeplab_tf.evaluation.report.comparison import check_comparable
from deeplab_tf.evaluation.report.images import Shown
from deeplab_tf.evaluation.report.page import write

__all__ = ["Shown", "check_comparable", "write"]

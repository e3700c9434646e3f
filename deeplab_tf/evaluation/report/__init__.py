"""The evaluation as one HTML page that needs nothing beside itself.

    page (summary, classes, confusion, borders, pictures) -> charts, pictures, comparison -> markup

`page.css` and `page.js` are written into the page.
"""

from deeplab_tf.evaluation.report.comparison import check_comparable
from deeplab_tf.evaluation.report.page import write
from deeplab_tf.evaluation.report.pictures import Shown

__all__ = ["Shown", "check_comparable", "write"]

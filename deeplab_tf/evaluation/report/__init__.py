"""The evaluation as one HTML page that needs no other file.

    page -> comparison, images, charts -> formats

The HTML lies in `templates/`, one file per section; `page.css` and `page.js` there become part of
the page.
"""

from deeplab_tf.evaluation.report.comparison import check_comparable
from deeplab_tf.evaluation.report.images import Shown
from deeplab_tf.evaluation.report.page import write

__all__ = ["Shown", "check_comparable", "write"]

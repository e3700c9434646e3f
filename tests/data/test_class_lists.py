"""Class lists in the forms of several tools, and text files that are none."""

import pytest

from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError

COLORS = ((0, 0, 0), (70, 130, 180))
FORMS = {
    "names": ("ground\n\n  traffic light\n", None),
    "names and colours": ("ground 0 0 0\ntraffic light 70 130 180\n", COLORS),
    "one colour": ("ground\ntraffic light 70 130 180\n", COLORS),
    "indented": ("ground\n  traffic light  \n", None),
    "comment": ("# mine\nground\ntraffic light\n", None),
    "byte order mark, Windows' lines": ("\ufeffground\r\ntraffic light\r\n", None),
    "CamVid": ("0 0 0\t\tground\n70 130 180\ttraffic light\n", COLORS),
    "numbered": ("0 ground\n1 traffic light\n", None),
    "numbered with colons": ("0: ground\n1: traffic light\n", None),
    "CVAT": (
        "# label:color_rgb:parts:actions\nground:0,0,0::\ntraffic light:70,130,180::\n",
        COLORS,
    ),
    "labelme": ("__ignore__\nground\ntraffic light\n", None),
    "class_dict.csv": ("name,r,g,b\nground,0,0,0\ntraffic light,70,130,180\n", COLORS),
    "colours first": ("r, g, b, name\n0, 0, 0, ground\n70, 130, 180, traffic light\n", COLORS),
    "Roboflow": ("Pixel Value, Class\n0, ground\n1, traffic light\n", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_classes(form, tmp_path):
    text, colors = FORMS[form]
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    names, found = read_class_list(tmp_path / "classes.txt")
    assert names == ("ground", "traffic light")
    assert found == (colors or default_colors(2))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "0 classes"),
        ("\n".join(map("c{}".format, range(256))), "256 classes"),
        ("a\nb\na\n", "'a' twice"),
        ("a 1 2 300", r"0\.\.255"),
        ("a:1,2::\n", r"0\.\.255"),
        ("name,r,g,b\na,1,2\n", "4 columns"),
        ("name,r,g,b\na,1,2,x\n", r"0\.\.255"),
        ("Pixel Value, Class\n0, a\n2, b\n", "without a gap"),
        ("1 a\n2 b\n", "without a gap"),
        ('{"names": ["a"]}', "not a class list"),
        ("<annotations>\n", "not a class list"),
        ("x" * 200, "not a class list"),
        ("path = /data\n", "not a class list"),
    ],
)
def test_what_is_not_a_class_list_is_refused(text, message, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(tmp_path / "classes.txt")

"""Class lists in the forms of several tools, and other text files."""

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
    "a table with semicolons": (
        "Name;R;G;B\nground;0;0;0\ntraffic light;70;130;180\n",
        COLORS,
    ),
    "a table with quotes": (
        '"name","x","r","g","b"\n"ground","","0","0","0"\n"traffic light","","70","130","180"\n',
        COLORS,
    ),
    "a table by ids": ("name,id\ntraffic light,1\nground,0\n", None),
    "ids behind": ("traffic light,1\nground,0\n", None),
    "ids, names and colours": ("0 ground 0 0 0\n1 traffic light 70 130 180\n", COLORS),
    "hexadecimal": ("ground #000000\ntraffic light #4682b4\n", COLORS),
    "JSON": ('["ground", "traffic light"]', None),
    "JSON of CVAT": (
        '[{"name": "ground", "color": "#000000"}, {"name": "traffic light", "color": "#4682b4"}]',
        COLORS,
    ),
    "JSON by ids": ('{"names": {"1": "traffic light", "0": "ground"}}', None),
    "ids, colours and names": ("0 0 0 0 ground\n1 70 130 180 traffic light\n", COLORS),
    "a header over columns": ("Name R G B\nground 0 0 0\ntraffic light 70 130 180\n", COLORS),
    "a header over numbered names": ("id name\n0 ground\n1 traffic light\n", None),
    "a header over names": ("class\nground\ntraffic light\n", None),
    "an unknown column of ids": ("nr,name\n1,traffic light\n0,ground\n", None),
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
        ("1 9 9 9 a\n2 8 8 8 b\n", "without a gap"),
        ("Idx\tRatio\tName\n1\t0.2\ta\n2\t0.1\tb\n", "without a gap"),
        ("nr,name\n1,a\n2,b\n", "without a gap"),
        ("name\n", "0 classes"),
        ('{"names": 3}', "not a class list"),
        ('[{"name": "a", "color": "red"}]', r"0\.\.255"),
        ('[{"title": "a"}]', "not a class list"),
        ("ground,traffic light,sky\n", "not a class list"),
        ("image,label,count\na,b,3\n", "not a class list"),
        ("import os\ndef f():\n    return 1\n", "not a class list"),
        ("names:\n  0: a\n", "not a class list"),
        ("These are the classes. Enjoy!\n", "not a class list"),
        ("images/a.jpg\nimages/b.jpg\n", "not a class list"),
        ("sky 0.5 0.2 0.1\n", r"0\.\.255"),
        ("sky 1 2 -3\n", r"0\.\.255"),
        ("name,r,g,b\n,1,2,3\n", "not a class list"),
        ("x\n" * 100_000, "100000 classes"),
        ("1 " * 100_000, "not a class list"),
        ("<annotations>\n", "not a class list"),
        ("x" * 200, "not a class list"),
        ("path = /data\n", "not a class list"),
    ],
)
def test_what_is_not_a_class_list_is_refused(text, message, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(tmp_path / "classes.txt")


def test_names_may_have_commas_and_numbers_where_no_form_explains_them(tmp_path):
    (tmp_path / "classes.txt").write_text("door, double door\nlane 1\nlane 2\nres 50 net\n")
    names, _ = read_class_list(tmp_path / "classes.txt")
    assert names == ("door, double door", "lane 1", "lane 2", "res 50 net")
    (tmp_path / "classes.txt").write_text("zone 0\nzone 1\n")
    assert read_class_list(tmp_path / "classes.txt")[0] == ("zone 0", "zone 1")

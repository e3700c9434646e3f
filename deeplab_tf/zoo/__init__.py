"""Released weights by name: the list, the download, and the cache.

entries.py    the table of the released checkpoints
archives.py   downloading, verifying and unpacking their archives
cache.py      where they are kept on this machine, and finding a checkpoint by name
"""

from deeplab_tf.zoo.cache import add
from deeplab_tf.zoo.cache import cache_dir
from deeplab_tf.zoo.cache import download
from deeplab_tf.zoo.cache import folder_of
from deeplab_tf.zoo.cache import imagenet_name
from deeplab_tf.zoo.cache import is_cached
from deeplab_tf.zoo.cache import resolve
from deeplab_tf.zoo.entries import ENTRIES
from deeplab_tf.zoo.entries import Entry
from deeplab_tf.zoo.entries import find_entry

__all__ = [
    "ENTRIES",
    "Entry",
    "add",
    "cache_dir",
    "download",
    "find_entry",
    "folder_of",
    "imagenet_name",
    "is_cached",
    "resolve",
]

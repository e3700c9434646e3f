"""Engines that run a network on a CPU in place of TensorFlow.

LiteRT, OpenVINO and ONNX Runtime run the network up to its logits before the last resize, for
images of any size. Everything around it is the same for all engines: see `network`.

The file that an engine reads is built once, and kept in the run dir, or in the user's cache where
that cannot be written to. Its name is a hash of the weights, the settings and the versions of the
packages involved.
"""

from deeplab_tf.evaluation.engines.automatic import automatic_network
from deeplab_tf.evaluation.engines.built import Source
from deeplab_tf.evaluation.engines.built import load_network
from deeplab_tf.evaluation.engines.built import source_of_run

__all__ = ["Source", "automatic_network", "load_network", "source_of_run"]

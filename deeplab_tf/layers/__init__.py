"""The layers of DeepLab.

AtrousConv2D, AtrousDepthwiseConv2D, AtrousSeparableConv2D  convolution at a rate
AtrousMaxPool2D, ImagePooling                               pooling at a rate, over the whole image
ASPP, LiteRASPP                                             features seen at several scales
BatchNorm                                                   the original's moving statistics
ResizeLike, ScaleImage                                      bilinear, with aligned corners
h_swish, q_sigmoid                                          the activations of MobileNetV3
FakeQuantize                                                values rounded to 8 bits

They take and return channels-last float tensors, and work in functional models, in
`keras.Sequential`, in subclassed models and eagerly.
"""

from deeplab_tf.layers.activations import h_swish
from deeplab_tf.layers.activations import q_sigmoid
from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.aspp import LiteRASPP
from deeplab_tf.layers.atrous import AtrousConv2D
from deeplab_tf.layers.atrous import AtrousDepthwiseConv2D
from deeplab_tf.layers.atrous import AtrousMaxPool2D
from deeplab_tf.layers.batch_norm import BatchNorm
from deeplab_tf.layers.batch_norm import batch_norms
from deeplab_tf.layers.batch_norm import freeze_batch_norm
from deeplab_tf.layers.batch_norm import synchronize_batch_norm
from deeplab_tf.layers.blocks import Activation
from deeplab_tf.layers.blocks import Chain
from deeplab_tf.layers.blocks import ConvBlocks
from deeplab_tf.layers.blocks import call_in_order
from deeplab_tf.layers.names import layer_name
from deeplab_tf.layers.names import official_name
from deeplab_tf.layers.nesting import all_layers
from deeplab_tf.layers.nesting import as_model
from deeplab_tf.layers.nesting import made_exportable
from deeplab_tf.layers.pooling import ImagePooling
from deeplab_tf.layers.quantization import FakeQuantize
from deeplab_tf.layers.quantization import is_range
from deeplab_tf.layers.resize import ResizeLike
from deeplab_tf.layers.resize import ScaleImage
from deeplab_tf.layers.resize import size_at_stride
from deeplab_tf.layers.separable import AtrousSeparableConv2D
from deeplab_tf.layers.tracing import fake_quantization
from deeplab_tf.layers.tracing import local_graphs
from deeplab_tf.layers.tracing import mixed_precision
from deeplab_tf.layers.tracing import portable_graphs

__all__ = [
    "ASPP",
    "Activation",
    "AtrousConv2D",
    "AtrousDepthwiseConv2D",
    "AtrousMaxPool2D",
    "AtrousSeparableConv2D",
    "BatchNorm",
    "Chain",
    "ConvBlocks",
    "FakeQuantize",
    "ImagePooling",
    "LiteRASPP",
    "ResizeLike",
    "ScaleImage",
    "all_layers",
    "as_model",
    "batch_norms",
    "call_in_order",
    "fake_quantization",
    "freeze_batch_norm",
    "h_swish",
    "is_range",
    "layer_name",
    "local_graphs",
    "made_exportable",
    "mixed_precision",
    "official_name",
    "portable_graphs",
    "q_sigmoid",
    "size_at_stride",
    "synchronize_batch_norm",
]

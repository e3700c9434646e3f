"""How an export runs in OpenVINO, where that is installed."""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data import transforms
from deeplab_tf.export import parity
from deeplab_tf.export.proof_images import ProofImage

_MAX_IMAGES = 2  # a fault of a runtime shows in each


def compare(
    path: str,
    artefact: Callable[[np.ndarray], parity.Answer],
    images: Sequence[ProofImage],
    min_label_agreement: float,
) -> dict:
    """Compares the labels of OpenVINO with those of an export's own runtime.

    A difference is a warning and not an error: the export is right, and OpenVINO is only one of its
    users.

    Args:
        path: SavedModel folder, `.tflite` or ONNX file, with one input.
        artefact: The export in its own runtime, a function as `parity.measure` takes it.
        images: Images as the export takes them.
        min_label_agreement: Share of equal labels below which a warning is printed.

    Returns:
        For JSON: `openvino` with `version` and `label_agreement`, or `error`; empty where OpenVINO
        is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        return {}
    figures: dict[str, object] = {"version": importlib.metadata.version("openvino")}
    try:
        labels_of = _openvino(path)
        agreements = [
            np.mean(image.without_padding(labels_of(image.image) == artefact(image.image).labels))
            for image in images[:_MAX_IMAGES]
        ]
        figures["label_agreement"] = agreement = float(np.mean(agreements))
        problem = f"only {agreement:.2%} of the labels agree" * (agreement < min_label_agreement)
    except Exception as error:  # OpenVINO raises RuntimeError and errors of its own
        reason = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        figures["error"] = problem = reason[-1].strip()
    if problem:
        print(
            f"warning: OpenVINO {figures['version']} does not run this export as it should: "
            f"{problem}",
            file=sys.stderr,
            flush=True,
        )
    return {"openvino": figures}


def _openvino(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an export into OpenVINO as a function from an image to its class ids."""
    openvino = importlib.import_module("openvino")
    # Without the hint, a CPU with AMX computes in bfloat16.
    in_float32 = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", in_float32)
    dtype = model.input().get_element_type().to_dtype()
    by_name = {name: output for output in model.outputs for name in output.get_names()}

    def labels_of(image):
        answer = model(image[np.newaxis].astype(dtype))
        result = answer[by_name.get("labels", model.outputs[0])]
        size = image.shape[:2]  # an export may return fewer results
        if result.ndim == 3:
            return transforms.resize_nearest(result.astype(np.int32), size)[0].numpy()
        scores = transforms.resize_bilinear(result.astype(np.float32), size)
        return scores[0].numpy().argmax(axis=-1)

    return labels_of

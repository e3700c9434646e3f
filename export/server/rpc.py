"""TF Serving's gRPC services.

Reference: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis
"""

import functools

import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from deeplab_tf.export.server.servable import ModelSpec
from deeplab_tf.export.server.servable import Servable
from deeplab_tf.export.server.servable import ServingError
from deeplab_tf.export.server.servable import invalid


def add_services(servable: Servable, server) -> None:
    """Adds the services to a gRPC server."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(servable), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(servable), server)


def _aborting(method):
    """Lets a gRPC method answer a `ServingError` with its status."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request)
        except ServingError as error:
            context.abort(error.status, str(error))

    return answer


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, servable: Servable):
        self._servable = servable

    @_aborting
    def Predict(self, request):
        spec = ModelSpec.from_proto(request.model_spec)
        version = self._servable.find(spec)
        signature_name = request.model_spec.signature_name or "serving_default"
        try:
            inputs = {name: tf.constant(tf.make_ndarray(p)) for name, p in request.inputs.items()}
        except (TypeError, ValueError) as error:
            raise invalid(f"a tensor of the request cannot be read: {error}") from error
        outputs = self._servable.predict(version, signature_name, inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version
        response.model_spec.signature_name = signature_name
        for name in request.output_filter or outputs:
            if name not in outputs:
                raise invalid(f"output tensor alias not found in signature: {name}")
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    @_aborting
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid(f"Metadata field {list(request.metadata_field)} is not supported")
        return self._servable.metadata(ModelSpec.from_proto(request.model_spec))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, servable: Servable):
        self._servable = servable

    @_aborting
    def GetModelStatus(self, request):
        return self._servable.status(ModelSpec.from_proto(request.model_spec))

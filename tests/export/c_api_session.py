"""Runs a SavedModel through TensorFlow's C API alone: the loader that servers in C++ use.

    python c_api_session.py LIBTENSORFLOW_CC SAVED_MODEL REQUEST RESULT

REQUEST is JSON: `feeds`, arrays of uint8 as nested lists, or the path of a file as bytes, by tensor
name; `fetches`, tensor names. RESULT becomes JSON: by tensor name the values of uint8, or the
bytes of strings as integers.
"""

import ctypes
import json
import pathlib
import sys

UINT8, STRING = 4, 7  # TF_DataType
TSTRING_SIZE = 24  # of the struct TF_TString


class Output(ctypes.Structure):
    """TF_Output: an operation and the number of its result."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library(path: str) -> ctypes.CDLL:
    api = ctypes.CDLL(path)
    for name in (
        "TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName", "TF_AllocateTensor", "TF_TensorData", "TF_StringGetDataPointer",
    ):  # fmt: skip
        getattr(api, name).restype = ctypes.c_void_p
    for name in ("TF_Dim", "TF_StringGetSize"):
        getattr(api, name).restype = ctypes.c_int64
    api.TF_Message.restype = ctypes.c_char_p
    return api


def main(library: str, folder: str, request_path: str, result_path: str) -> None:
    api = load_library(library)
    pointer = ctypes.c_void_p
    status, graph = pointer(api.TF_NewStatus()), pointer(api.TF_NewGraph())

    def check():
        if api.TF_GetCode(status):
            sys.exit(api.TF_Message(status).decode())

    session = pointer(api.TF_LoadSessionFromSavedModel(
        pointer(api.TF_NewSessionOptions()), None, folder.encode(),
        (ctypes.c_char_p * 1)(b"serve"), 1, graph, None, status,
    ))  # fmt: skip
    check()

    def outputs(names):
        pairs = [name.split(":") for name in names]
        return (Output * len(pairs))(
            *(
                Output(api.TF_GraphOperationByName(graph, operation.encode()), int(index))
                for operation, index in pairs
            )
        )

    def allocate(dtype, shape, num_bytes):
        dims = (ctypes.c_int64 * len(shape))(*shape)
        tensor = pointer(api.TF_AllocateTensor(dtype, dims, len(shape), ctypes.c_size_t(num_bytes)))
        return tensor, api.TF_TensorData(tensor)

    def tensor_of(value):
        if isinstance(value, str):
            content = pathlib.Path(value).read_bytes()
            tensor, data = allocate(STRING, [1], TSTRING_SIZE)
            api.TF_StringInit(pointer(data))
            api.TF_StringCopy(pointer(data), content, ctypes.c_size_t(len(content)))
            return tensor
        shape, inner = [], value
        while isinstance(inner, list):
            shape.append(len(inner))
            inner = inner[0]
        for _ in shape[1:]:
            value = [one for row in value for one in row]
        tensor, data = allocate(UINT8, shape, len(value))
        ctypes.memmove(data, bytes(value), len(value))
        return tensor

    def value_of(tensor):
        data = api.TF_TensorData(tensor)
        if api.TF_TensorType(tensor) == STRING:
            text = pointer(data)
            content = api.TF_StringGetDataPointer(text)
            return list(ctypes.string_at(content, api.TF_StringGetSize(text)))
        size = 1
        for axis in range(api.TF_NumDims(tensor)):
            size *= api.TF_Dim(tensor, axis)
        return list(ctypes.string_at(data, size))

    request = json.loads(pathlib.Path(request_path).read_text())
    feeds, fetches = request["feeds"], request["fetches"]
    tensors = (ctypes.c_void_p * len(feeds))(*(tensor_of(value).value for value in feeds.values()))
    results = (ctypes.c_void_p * len(fetches))()
    api.TF_SessionRun(
        session, None, outputs(feeds), tensors, len(feeds), outputs(fetches), results, len(fetches),
        None, 0, None, status,
    )  # fmt: skip
    check()
    assert "tensorflow" not in sys.modules
    values = {name: value_of(pointer(result)) for name, result in zip(fetches, results)}
    pathlib.Path(result_path).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])

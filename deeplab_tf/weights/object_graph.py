"""Checkpoints of deeplab_tf 0.1, which were keyed by the nesting of Python objects.

`tf.train.Checkpoint` names a value after the attributes that lead to it, such as
`model/_operations/2/kernel`, and writes this graph of objects into the checkpoint, with the full
name of every variable. From there the names of `checkpoint_values` follow.
"""

from collections.abc import Iterator

from tensorflow.core.protobuf import trackable_object_graph_pb2

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_KINDS = {"kernel": "weights", "bias": "biases"}


def keys_by_name(reader) -> dict[str, str]:
    """Returns the key of each value of a checkpoint, by the names of `checkpoint_values`.

    Args:
        reader: What `tf.train.load_checkpoint` returns, with or without a graph of objects.
    """
    keys = reader.get_variable_to_shape_map()
    if _GRAPH not in keys:
        return {key: key for key in keys}
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
    # A checkpoint of another program has none of these objects: it keeps its own keys.
    return _ObjectGraph(graph).keys_by_name() or {key: key for key in keys}


class _ObjectGraph:
    """The objects of a checkpoint; each is known by its number, the root by 0."""

    def __init__(self, graph: trackable_object_graph_pb2.TrackableObjectGraph):
        self._nodes = graph.nodes

    def keys_by_name(self) -> dict[str, str]:
        parts = self._children(0)
        full_names, names = self._weights(parts.get("model", 0))
        keys = {names[node]: self._key(node) for node in names}
        if "optimizer" in parts:
            keys |= self._optimizer(parts["optimizer"], full_names, names)
        if "average" in parts:
            averages = self._list(self._children(parts["average"])["averages"])
            for name, node in zip(names.values(), averages, strict=True):
                keys[f"{name}/ExponentialMovingAverage"] = self._key(node)
        if "loss_scale" in parts:
            for name, node in self._children(parts["loss_scale"]).items():
                keys[f"loss_scale/{name}"] = self._key(node)
        if "best_miou" in parts:
            keys["best_miou"] = self._key(parts["best_miou"])
        for index, node in enumerate(self._list(parts.get("seeds"))):
            keys[f"dropout_seed/{index}"] = self._key(node)
        return keys

    def _optimizer(self, optimizer: int, full_names: dict, names: dict) -> dict[str, str]:
        """The step, and what Keras keeps for a weight `a.b/kernel` under `a.b_kernel_momentum`."""
        children = self._children(optimizer)
        keys = {"global_step": self._key(children["_iterations"])}
        slots = {
            self._full_name(node).partition("/")[2]: node
            for node in self._list(children["_variables"])
        }
        is_adam = any(slot.endswith("_velocity") for slot in slots)
        kinds = {"momentum": "Adam", "velocity": "Adam_1"} if is_adam else {"momentum": "Momentum"}
        for node, full_name in full_names.items():
            for kind, suffix in kinds.items():
                slot = slots.get(f"{full_name.replace('/', '_')}_{kind}")
                if slot is not None:
                    keys[f"{names[node]}/{suffix}"] = self._key(slot)
        return keys

    def _weights(self, model: int) -> tuple[dict[int, str], dict[int, str]]:
        """Full and official names of a model's weights by node, in the order of `model.weights`."""
        full_names = {node: self._full_name(node) for node in self._variables(model)}
        return full_names, {node: _official_name(name) for node, name in full_names.items()}

    def _variables(self, layer: int) -> Iterator[int]:
        """The variables of a layer, or of all layers of a model, as Keras orders them."""
        for name, child in self._children(layer).items():
            if name == "_operations":
                for operation in self._list(child):
                    yield from self._variables(operation)
            elif self._nodes[child].attributes:
                yield child

    def _children(self, node: int) -> dict[str, int]:
        return {child.local_name: child.node_id for child in self._nodes[node].children}

    def _list(self, node: int | None) -> list[int]:
        """The elements of a list, in their order."""
        if node is None:
            return []
        return [child for _, child in sorted(self._children(node).items(), key=_index)]

    def _key(self, node: int) -> str:
        return self._nodes[node].attributes[0].checkpoint_key

    def _full_name(self, node: int) -> str:
        return self._nodes[node].attributes[0].full_name


def _index(item: tuple[str, int]) -> int:
    return int(item[0])


def _official_name(full_name: str) -> str:
    """The name of `layers.official_name`, as it was when these checkpoints were written."""
    layer, kind = full_name.split("/")[-2:]
    if kind == "kernel" and layer.endswith("depthwise"):
        kind = "depthwise_weights"
    return f"{layer}/{_KINDS.get(kind, kind)}".replace(".", "/")

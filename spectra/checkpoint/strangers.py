"""Files and folders of other programs, each with what it is and the way to a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

_TENSORFLOW = (
    "load it with from_tf=True in transformers, or with its own library, and save the torch model's state_dict"
)
_KERAS = "save the weights of a torch model (Keras with the torch backend has one) as a state_dict"
# By the first bytes: what it is, and the way out.
_HEADS: tuple[tuple[bytes, str], ...] = (
    (rb"\x89HDF", f"an HDF5 file, as Keras saves weights and basinscope its results: {_KERAS}, or name the checkpoint"),
    (rb"version https://git-lfs", "a pointer of Git LFS to a file that was not fetched: run git lfs pull"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page, as a failed download leaves one: fetch the file again"),
    (rb"\x93NUMPY", "an array of numpy: save the model's state_dict"),
    (rb"\x1f\x8b|\xfd7zXZ|\x28\xb5\x2f\xfd|BZh", "a compressed file: unpack it first"),
    (rb".{257}ustar", "a tar archive: unpack it, or load it with an old torch and save the state_dict anew"),
    (rb".{4}TFL3", f"a TensorFlow Lite model: {_TENSORFLOW}"),
    (rb"PK.{28}(metadata\.json|config\.json|model\.weights\.h5)", f"a Keras file: {_KERAS}"),
    (rb"PK.{28}[^/]*?\.npy", "an archive of numpy arrays (.npz): put them into a state_dict and save that with torch"),
    (rb"\s*\{\s*\"", "a JSON file: name the folder that it lies in, or the file of weights beside it"),
)
# By the ending, where first bytes say nothing.
_ENDINGS = {
    ".onnx": "an ONNX model, which holds a graph without a torch model: save the state_dict of the model it came from",
    ".pb": f"a TensorFlow graph: {_TENSORFLOW}",
    ".msgpack": "a Flax checkpoint: load it with from_flax=True in transformers and save the torch model",
    ".tflite": f"a TensorFlow Lite model: {_TENSORFLOW}",
    ".distcp": "a part of a checkpoint of torch.distributed.checkpoint: name the folder that it lies in",
}
# By what lies in a folder.
_FOLDERS = {
    "saved_model.pb": f"is a SavedModel of TensorFlow: {_TENSORFLOW}",
    "checkpoint": f"is a checkpoint folder of TensorFlow: {_TENSORFLOW}",
    "tf_model.h5": f"holds weights for TensorFlow alone: {_TENSORFLOW}",
    "flax_model.msgpack": "holds weights for Flax alone: load it with from_flax=True in transformers and save it again",
    "model.onnx": "holds an ONNX model, which has no torch model in it: name the checkpoint that it was made of",
    "model_index.json": "is a pipeline of diffusers: name the folder of one of its models, such as its unet",
}
ADAPTER = "adapter_config.json"


def stranger(head: bytes, name: str) -> str:
    """What a file of another program is, and the way out; empty for one that may be torch's or safetensors'.

    >>> stranger(b"version https://git-lfs.github.com/spec/v1", "model.pt")
    'a pointer of Git LFS to a file that was not fetched: run git lfs pull'
    """
    for pattern, words in _HEADS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return words
    known = head.startswith((b"PK", b"\x80"))
    return "" if known else next((words for ending, words in _ENDINGS.items() if name.lower().endswith(ending)), "")


def strange_folder(folder: Path) -> str:
    """What a folder of another program is, as the end of a sentence; empty for one that is none."""
    return next((words for name, words in _FOLDERS.items() if (folder / name).is_file()), "")

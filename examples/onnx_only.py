"""Label a photograph with an exported network: ONNX Runtime, NumPy and Pillow, and nothing of spcnet or torch.

    spcnet export runs/spcnet --output model.onnx --output_kind labels --normalise
    python examples/onnx_only.py model.onnx street.jpg labels.png

Any file works that `spcnet export --format onnx` has written: what it wants and what it answers stands in it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, TiffImagePlugin

TiffImagePlugin.READ_LIBTIFF = True  # YCbCr that is not compressed is read rightly by libtiff alone


def read_about(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """What the file says of itself; each entry is JSON."""
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


def read(path: str | Path) -> Image.Image:
    """A photo as the network was trained on it: RGB, upright as the camera was held, what can be seen through on white."""
    with open(path, "rb") as file:  # from a path, Pillow does not turn a TIFF that is not compressed
        photo = ImageOps.exif_transpose(Image.open(file))
    if photo.mode.startswith("I;16"):  # grey of 16 bits: the upper eight
        values, clear = np.asarray(photo), photo.info.get("transparency")
        photo = Image.fromarray((values >> 8).astype(np.uint8))
        if clear is not None:
            photo.putalpha(Image.fromarray((values != clear).astype(np.uint8) * 255))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, (255, 255, 255, 255)), photo)
    return photo.convert("RGB")


def prepare(photo: Image.Image, about: dict[str, Any]) -> np.ndarray:
    """The photo as the network wants it: 1×3×H×W at the size of the training images, normalised unless the file does it."""
    if about["size"]:
        height, width = about["size"]
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(photo).transpose(2, 0, 1)[None]
    if not about["normalise"]:
        mean, std = (np.array(about[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
        pixels = (pixels.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(pixels.astype(about["input"]["type"]))


def label(session: onnxruntime.InferenceSession, photo: Image.Image) -> Image.Image:
    """The class of each pixel at the photo's own size, as a palette image in the classes' colours."""
    about = read_about(session)
    (answer,) = session.run(None, {about["input"]["name"]: prepare(photo, about)})
    classes = answer[0] if about["output"]["name"] == "labels" else answer[0].argmax(axis=0)
    shown = Image.fromarray(classes.astype(np.uint8)).resize(photo.size, Image.Resampling.NEAREST)
    shown.putpalette([channel for color in about["colors"] for channel in color])
    return shown


def main() -> None:
    """Read the arguments, label the photo, say how much of it each class covers."""
    parser = argparse.ArgumentParser(description="Label a photograph with a network that spcnet has exported.")
    parser.add_argument("model", help="file of spcnet export, *.onnx")
    parser.add_argument("photo", help="image to label")
    parser.add_argument("output", help="picture to write, *.png: pixel values are classes, shown in their colours")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.photo):
        if not Path(path).is_file():
            parser.error(f"there is no file {path}: check the path")
    if not arguments.output.lower().endswith(".png"):
        parser.error(f"the output is {arguments.output}: classes are kept as they are only in a file *.png")
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    if "input" not in read_about(session):
        parser.error(f"{arguments.model} does not say what it wants: give a file of spcnet export")
    shown = label(session, read(arguments.photo))
    shown.save(arguments.output)
    names = read_about(session)["classes"]
    shares = np.bincount(np.asarray(shown).ravel(), minlength=len(names)) / (shown.width * shown.height)
    for name, share in zip(names, shares, strict=True):
        print(f"{name:16} {share:6.1%}")


if __name__ == "__main__":
    main()

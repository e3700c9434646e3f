"""How long the exported web page takes for an image in a browser, beside LiteRT outside of it.

    npm ci --prefix tests/web
    python benchmarks/web.py --run_dir=RUN        # about 3 minutes on 2 idle cores

For every form of the network, `export.web` writes a page, Chromium opens it without a window and
without a GPU, and labels the same drawn image again and again. "network" is the time that LiteRT.js
takes, "whole" includes fitting the image and finding the labels. "outside" is the same .tflite file
in the LiteRT interpreter of Python, on all cores. What counts is the median.
"""

import argparse
import os
import pathlib
import re
import statistics
import sys
import tempfile

import cv2
import inference  # type: ignore[import-not-found]

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUANTIZE = ("none", "float16", "dynamic")
SIZE = (513, 513)
RUNS, WARM_UP = 10, 2


def export(run_dir: str, folder: pathlib.Path, quantize: str) -> None:
    """Writes the page, and beside it the network as the page holds it."""
    from deeplab_tf.export.config import TFLiteConfig
    from deeplab_tf.export.config import WebConfig
    from deeplab_tf.export.formats import tflite
    from deeplab_tf.export.formats import web
    from deeplab_tf.runs import run_dir as run_dirs

    settings = WebConfig(
        quantize=quantize, input_size=SIZE, litert_js=str(REPOSITORY / "tests/web/node_modules")
    )
    web.export_web(run_dir, str(folder / "page"), web_config=settings)
    model = run_dirs.load_model(run_dirs.read(run_dir))
    content = tflite.convert(model, TFLiteConfig(quantize=quantize), SIZE)
    (folder / "model.tflite").write_bytes(content)


def in_browser(page: pathlib.Path, image: pathlib.Path) -> tuple[float, float]:
    """Returns the milliseconds of the network, and of everything."""
    import browsers  # type: ignore[import-not-found]

    times = []
    with (
        tempfile.TemporaryDirectory() as profile,
        browsers.running_browser(pathlib.Path(profile)) as browser,
    ):
        browser.open(page)
        for _ in range(WARM_UP + RUNS):
            browser.value("shown = null")
            browser.choose_file("#file", image)
            browser.wait_for("shown || byId('status').className")
            whole, network = re.findall(r"(\d+) ms", browser.value("byId('status').textContent"))
            times.append((float(network), float(whole)))
    network, whole = map(statistics.median, zip(*times[WARM_UP:], strict=True))
    return network, whole


def outside(path: pathlib.Path, run_dir: str) -> float:
    """Returns the milliseconds of the same file in Python."""
    from deeplab_tf.evaluation import artefacts
    from deeplab_tf.runs import run_dir as run_dirs

    run = run_dirs.read(run_dir)
    settings = (run.model_config, run.data_config)
    label_of = artefacts.load_artefact(str(path), *settings, tell=lambda _: None)
    (seconds,) = inference.time_in_turn([label_of], inference.draw_image(SIZE))
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run_dir", required=True, help="a run whose data are there")
    run_dir = parser.parse_args().run_dir
    sys.path.append(str(REPOSITORY / "tests"))  # what drives the browser lies there
    print(f"{os.cpu_count()} CPU cores, {SIZE[0]}x{SIZE[1]}, medians of {RUNS} images")
    print(f"{'':<12}{'network':>10}{'whole':>10}{'outside':>10}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cv2.imwrite(str(folder / "image.png"), inference.draw_image(SIZE))
        for quantize in QUANTIZE:
            place = folder / quantize
            place.mkdir()
            export(run_dir, place, quantize)
            network, whole = in_browser(place / "page/index.html", folder / "image.png")
            print(
                f"{quantize:<12}{network:>7.0f} ms{whole:>7.0f} ms"
                f"{outside(place / 'model.tflite', run_dir):>7.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()

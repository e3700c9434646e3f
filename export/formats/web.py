"""A web page that labels images in the browser, with the network of a run in it.

The page is `web_page/page.html`. What it computes, `worker.js` has: it fits images as
`fitting.ImageFitter` does, runs the `.tflite` file, and resizes its scores as
`artefacts.tflite.label_function` does.
"""

import base64
import dataclasses
import functools
import gzip
import os
import pathlib
import shutil
import tempfile

import jinja2
from markupsafe import Markup

import deeplab_tf
from deeplab_tf import files
from deeplab_tf import html_templates
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.network import without_last_resize
from deeplab_tf.export import asset_files
from deeplab_tf.export import litert
from deeplab_tf.export import litert_js
from deeplab_tf.export import parity
from deeplab_tf.export import publishing
from deeplab_tf.export.config import FOLDER_WITH_LITERT_JS
from deeplab_tf.export.config import TFLITE_PROOF
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.config import WebConfig
from deeplab_tf.export.formats.tflite import export_tflite
from deeplab_tf.export.formats.tflite import fixed_input_size
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files

_WEB_PAGE = pathlib.Path(__file__).parent.parent / "web_page"
_PAGE = "index.html"
_MODEL = "model.js"


def _runtime_script(variant: str) -> str:
    return f"litert_{variant}.js"


_BESIDE_THE_PAGE = (_MODEL, asset_files.PARITY, *map(_runtime_script, litert_js.VARIANTS))


def export_web(
    run_dir: str,
    output_dir: str,
    *,
    checkpoint: str = "best",
    web_config: WebConfig = FOLDER_WITH_LITERT_JS,
    proof_config: TFLiteProofConfig = TFLITE_PROOF,
) -> tuple[str, parity.Parity, list[str]]:
    """Writes a page that labels images by a run's network in the browser.

    Args:
        run_dir: Folder of a trained or imported run.
        output_dir: Folder of the page; an earlier page in it is replaced.
        checkpoint: "best" or "last".
        web_config: What the page holds.
        proof_config: The images to prove the network with, and what it may lose.

    Returns:
        Path of the page; how close its network is to the Keras model; and sentences on what the run
        does but the page does not.

    Raises:
        UserError: A package is missing; the run, the folder or LiteRT.js cannot be used; or the
            network is not close enough to the Keras model.
    """
    litert.require_installed()
    place = publishing.PageFolder(output_dir, _PAGE, _BESIDE_THE_PAGE)
    run = run_dirs.read(run_dir)
    if run.dataset.bands:
        raise UserError(
            f"{run_dir} is of images of {run.dataset.num_channels} bands, and browsers read RGB "
            "images: export it by export.savedmodel, export.tflite or export.onnx."
        )
    runtime = None if web_config.cdn else litert_js.find(web_config.litert_js)
    network_config = _network_config(run, web_config)
    with tempfile.TemporaryDirectory() as folder:
        network = os.path.join(folder, "model.tflite")
        figures, _ = export_tflite(
            run_dir,
            network,
            checkpoint=checkpoint,
            tflite_config=network_config,
            proof_config=proof_config,
        )
        scripts = _scripts(pathlib.Path(network).read_bytes(), runtime, web_config)
        settings = _settings(run, web_config, network_config, runtime)
        with place.draft() as draft:
            page = _page(settings, _about(run, web_config, figures), scripts, web_config)
            _write(draft / _PAGE, page)
            shutil.copyfile(publishing.parity_path(network), draft / asset_files.PARITY)
            if not web_config.single_file:
                for name, script in scripts.items():
                    _write(draft / name, script)
    return os.path.join(output_dir, _PAGE), figures, _left_out(run)


def _network_config(run: run_dirs.Run, config: WebConfig) -> TFLiteConfig:
    """Returns a file of scores at the stride of the head: the page interpolates them as well."""
    output_stride = run.model_config.output_stride
    assert output_stride is not None  # a run's config has it
    stride = _head_stride(run.model_config)
    tflite_config = TFLiteConfig(
        quantize=config.quantize,
        result="scores",
        result_stride=int(stride) if stride >= 1 and output_stride % stride == 0 else 1,
        input_size=config.input_size,
    )
    return dataclasses.replace(tflite_config, input_size=fixed_input_size(run, tflite_config))


def _head_stride(config: ModelConfig) -> float:
    _, stride = without_last_resize(models.build_model(**dataclasses.asdict(config)))
    return stride


def _settings(
    run: run_dirs.Run,
    config: WebConfig,
    network_config: TFLiteConfig,
    runtime: litert_js.LiteRtJs | None,
) -> dict:
    """Returns what the page's scripts have to know, for JSON."""
    size = network_config.input_size
    fitter = image_fitter(run.model_config, run.data_config, (size[0], size[1]))
    resize_range = fitter.resize_range
    return {
        "name": config.heading or run.dataset.name,
        "classNames": list(run.dataset.class_names),
        "colors": [list(color) for color in run.dataset.colors],
        "size": list(size),
        "scoreSize": [layers.size_at_stride(side, network_config.result_stride) for side in size],
        "padPixel": list(fitter.pad_pixel),
        "resizeRange": resize_range
        and {
            "min": resize_range.min_size,
            "max": resize_range.max_size,
            "factor": resize_range.factor,
        },
        "litertJs": runtime.version if runtime else litert_js.version(),
        "runtimes": _runtimes(runtime, config),
    }


def _runtimes(runtime: litert_js.LiteRtJs | None, config: WebConfig) -> dict[str, dict]:
    """Returns where the page finds each variant of LiteRT.js: empty for in the page itself."""
    if runtime is None:
        return {variant: {"urls": urls} for variant, urls in litert_js.cdn_urls().items()}
    if config.single_file:
        return {"compat": {}}
    return {variant: {"script": _runtime_script(variant)} for variant in litert_js.VARIANTS}


def _about(run: run_dirs.Run, config: WebConfig, figures: parity.Parity) -> dict[str, str]:
    """Returns what the page says of its network, by term."""
    about = {
        "Network": f"DeepLab {run.model_config.version}, {run.model_config.backbone}",
        "Weights": f"{config.quantize}, {figures.size_bytes / 2**20:.1f} MiB",
        "Same labels as in Keras": f"{100 * figures.label_agreement:.2f} %",
    }
    if figures.miou_artefact is not None:
        about["mIoU"] = f"{figures.miou_artefact:.4f} on {figures.num_images} images"
    return about | {"Made by": f"deeplab_tf {deeplab_tf.__version__}"}


def _scripts(
    network: bytes, runtime: litert_js.LiteRtJs | None, config: WebConfig
) -> dict[str, str]:
    """Returns the scripts that hand the network and LiteRT.js to the page, by name.

    Scripts load from any server and from the file system, where a page may read no other file.
    """
    parts = {_MODEL: {"model": network}}
    if runtime is not None:
        for variant in ("compat",) if config.single_file else litert_js.VARIANTS:
            parts[_runtime_script(variant)] = runtime.variants[variant]
    return {name: _script(content) for name, content in parts.items()}


def _script(content: dict[str, bytes]) -> str:
    return "".join(
        f'parts.{name} = "{base64.b64encode(gzip.compress(part, mtime=0)).decode()}";\n'
        for name, part in content.items()
    )


def _page(settings: dict, about: dict[str, str], scripts: dict[str, str], config: WebConfig) -> str:
    return (
        _templates()
        .get_template("page.html")
        .render(
            settings=settings,
            about=about,
            inline_scripts=[Markup(each) for each in scripts.values() if config.single_file],
            model_script=None if config.single_file else _MODEL,
            cdn=litert_js.CDN if config.cdn else "'none'",
            generator=publishing.PAGE_GENERATOR,
        )
    )


@functools.cache
def _templates() -> jinja2.Environment:
    environment = html_templates.environment(jinja2.FileSystemLoader(_WEB_PAGE))
    environment.globals |= {
        "style": Markup(_text("page.css")),
        "script": Markup(_text("page.js")),
        "worker": Markup(_text("worker.js")),
        "licence": _text("apache-2.0.txt"),
    }
    return environment


def _text(name: str) -> str:
    return (_WEB_PAGE / name).read_text(encoding="utf-8")


def _write(path: pathlib.Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _left_out(run: run_dirs.Run) -> list[str]:
    """Returns sentences on what a run does but its page does not."""
    if not files.as_path(run.folder, run_files.CRF).exists():
        return []
    return ["The CRF that was tuned for the run is not in the page."]

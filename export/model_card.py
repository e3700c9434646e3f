"""The card of a published model: what a stranger has to know to use it."""

import dataclasses
import html
import textwrap

import yaml

from deeplab_tf import command_line
from deeplab_tf import zoo
from deeplab_tf.config import EvalConfig
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.settings import settings_of

_VERSIONS = {"v1": "DeepLab v1", "v2": "DeepLab v2", "v3": "DeepLab v3", "v3plus": "DeepLab v3+"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of a card.

    Attributes:
        run: The run, without paths of the machine that it was trained on.
        name: Name of the model.
        address: hf://USER/REPO.
        license: Licence of the weights as the Hub names it; empty if none is stated.
        figures: The figures of an evaluation (`metrics.json`); None if there was none.
        is_imported: Whether the weights were imported, and not trained by the flags of the run.
    """

    run: run_dirs.Run = dataclasses.field(kw_only=False)
    name: str
    address: str
    license: str
    figures: dict | None
    is_imported: bool

    def to_text(self) -> str:
        """Returns the card as the Hub reads it: YAML, then Markdown."""
        front = yaml.safe_dump(self._front(), sort_keys=False, allow_unicode=True)
        sections = [
            f"# {html.escape(self.name)}\n\n{self._summary()}",
            f"## Use\n\n{self._use()}",
            *([f"## Bands\n\n{self._bands()}"] if self.run.dataset.bands else []),
            f"## Results\n\n{self._results()}",
            f"## Classes\n\n{self._classes()}",
            f"## Training\n\n{self._training()}",
            f"## Licence\n\n{self._licence()}",
        ]
        return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"

    def _front(self) -> dict:
        """What the Hub indexes."""
        front: dict[str, object] = {
            "library_name": "keras",
            "pipeline_tag": "image-segmentation",
            "tags": ["deeplab", "deeplab_tf", "semantic-segmentation", "tensorflow"],
        }
        if self.license:
            front["license"] = self.license
        if self.figures:
            front["model-index"] = [{"name": self.name, "results": [self._result()]}]
        return front

    def _result(self) -> dict:
        assert self.figures
        dataset = self.run.dataset.name
        return {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {"type": dataset, "name": dataset, "split": self.figures["split"]},
            "metrics": [
                {"type": "mean_iou", "name": "mIoU", "value": self.figures["miou"]},
                {"type": "accuracy", "name": "accuracy", "value": self.figures["pixel_accuracy"]},
            ],
        }

    def _summary(self) -> str:
        model, dataset = self.run.model_config, self.run.dataset
        return (
            f"{_VERSIONS[model.version]} on `{model.backbone}` at output stride "
            f"{model.output_stride}: a Keras model that gives every pixel of an image one of "
            f"{dataset.num_classes} classes. Made with deeplab_tf."
        )

    def _use(self) -> str:
        dataset = self.run.dataset
        size, order = f"H, W, {dataset.num_channels}", "bands" if dataset.bands else "RGB"
        code = f"""
            import deeplab_tf

            run = deeplab_tf.load_run("{self.address}")
            labels = run.predict(image)  # uint8 [{size}], {order} -> class ids [H, W]
            shown = run.overlay(image, labels)  # uint8 [H, W, 3]

            model = deeplab_tf.load_model("{self.address}")  # a keras.Model
            logits = model(images, training=False)  # [B, {size}] in 0..255 -> [B, H, W, classes]
            """
        command = f"python -m deeplab_tf.predict --run_dir={self.address} --images=PHOTOS"
        return (
            f"Install deeplab_tf with its extra `hub`.\n\n```python{textwrap.dedent(code)}```\n\n"
            "After `import deeplab_tf`, `keras.saving.load_model` loads the model, too. From the "
            f"command line:\n\n```\n{command} --output_dir=LABELS\n```"
        )

    def _bands(self) -> str:
        rows = ["| channel | number in the files | name | becomes 0 | becomes 255 |"]
        rows.append("|---|---|---|---|---|")
        for channel, band in enumerate(self.run.dataset.bands):
            name = _cell(band.name)
            rows.append(f"| {channel} | {band.number} | {name} | {band.low:g} | {band.high:g} |")
        return "\n".join(rows)

    def _results(self) -> str:
        if not self.figures:
            return "These weights have not been evaluated."
        figures = self.figures
        modes = _inference_modes(figures)
        return (
            f"mIoU **{figures['miou']:.4f}**, pixel accuracy {figures['pixel_accuracy']:.4f}, on "
            f"the {figures['num_images']} images of the split `{figures['split']}` of "
            f"`{self.run.dataset.name}`, at the images' own size{modes}. The IoU of each class "
            "is in the next table."
        )

    def _classes(self) -> str:
        dataset = self.run.dataset
        ious = (self.figures or {}).get("iou_per_class", {})
        rows = ["| id | class | colour | IoU |", "|---|---|---|---|"]
        for class_id, (name, color) in enumerate(zip(dataset.class_names, dataset.colors)):
            iou = ious.get(name)
            shown = "" if iou is None else f"{iou:.4f}"
            rows.append(
                f"| {class_id} | {_cell(name)} | #{bytes(color).hex()} | {shown} |",
            )
        ignored = f"Pixels with the label {dataset.ignore_label} count neither in training nor in"
        return "\n".join(rows) + f"\n\n{ignored} evaluation."

    def _training(self) -> str:
        if self.is_imported:
            release = self.run.train_config.tf_initial_checkpoint
            source = (
                f"the released weights `{release}`" if release in zoo.ENTRIES else "a checkpoint"
            )
            return f"The weights were imported from {source}, and not trained further."
        configs = (self.run.model_config, self.run.data_config, self.run.train_config)
        command = command_line.shell_command(
            "deeplab_tf.train", *configs, data_dir="RECORDS", run_dir="RUN"
        )
        return (
            f"Trained on the split `{self.run.data_config.train_split}` of "
            f"`{self.run.dataset.name}` by\n\n```\n{command}\n```"
        )

    def _licence(self) -> str:
        stated = f"`{self.license}`." if self.license else "No licence of the weights is stated."
        return (
            f"{stated} The data that they were trained on has terms of its own, which may restrict "
            "what they may be used for."
        )


def _inference_modes(figures: dict) -> str:
    """Returns the inference modes of an evaluation as a clause; empty for whole images."""
    defaults = {one.name: one.default for one in settings_of(EvalConfig)}
    given = {name: figures.get(name, default) for name, default in defaults.items()}
    flags = command_line.to_arguments(EvalConfig(**given))
    plain = command_line.to_arguments(EvalConfig())
    modes = [f"`{flag}`" for flag in flags if flag not in plain]
    if figures.get("crf"):
        modes.append("the fully-connected CRF")
    return f", with {', '.join(modes)}" if modes else ""


def _cell(text: str) -> str:
    """Returns a text as a cell of a Markdown table."""
    return html.escape(" ".join(text.split())).replace("|", "\\|")

"""How a run labels images: the weights, the inference modes, and the CRF."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np

from deeplab_tf.config import AUTO
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import ONE_VIEW
from deeplab_tf.config import TENSORFLOW
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import engines
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation import views
from deeplab_tf.evaluation.network import Network
from deeplab_tf.runs import run_dir as run_dirs


@dataclasses.dataclass(frozen=True)
class Inference:
    """How a run labels images.

    Attributes:
        checkpoint: "best" or "last".
        model: SavedModel, `.keras` or `.tflite` file in place of the checkpoint, see
            `artefacts.load_artefact`; empty for the checkpoint.
        engine: What runs the network of the checkpoint: one of `config.ENGINES`. An artefact brings
            its own.
        eval_config: Scales, mirror images, windows and output stride.
        crf_config: The fully-connected CRF after the network.
    """

    checkpoint: str = "best"
    model: str = ""
    engine: str = TENSORFLOW
    eval_config: EvalConfig = ONE_VIEW
    crf_config: CrfConfig = NO_CRF

    def describe(self, run: run_dirs.Run) -> dict:
        """Returns the settings in the form of `metrics.json`."""
        return {
            "model": self.model or self.checkpoint,
            "engine": self.engine,
            "crf": run_dirs.crf_parameters(run.folder, self.crf_config),
            **dataclasses.asdict(self.eval_config),
        }

    def label_function(self, run: run_dirs.Run) -> Callable[[np.ndarray], np.ndarray]:
        """Loads the network of a run as a function from one image to its class ids.

        Args:
            run: The run.

        Returns:
            A function of an image, uint8 [H, W, channels], that returns class ids, int32 [H, W].

        Raises:
            UserError: There is no such checkpoint or artefact, or it cannot do what is asked for.
        """
        details = self._details(run)
        if self.model:
            if self.engine not in (AUTO, TENSORFLOW):
                raise UserError(
                    f"--engine={self.engine} is for checkpoints, but --model={self.model} brings "
                    "an engine of its own: leave one of them out."
                )
            return artefacts.load_artefact(
                self.model,
                run.model_config,
                run.data_config,
                class_names=run.dataset.class_names,
                **details,
            )
        return prediction.label_function(*self._load(run), run.data_config, **details)

    def label_rows_function(
        self, run: run_dirs.Run
    ) -> Callable[..., Iterator[tuple[slice, np.ndarray]]] | None:
        """Loads the network of a run as a function that labels images in bounded memory.

        Args:
            run: The run.

        Returns:
            The function of `prediction.label_rows_function`. None for what needs all of an image:
            an artefact, a CRF, or a run on resized images.

        Raises:
            UserError: There is no such checkpoint, or it cannot do what is asked for.
        """
        is_resized = bool(run.data_config.min_resize_value)
        if self.model or self.crf_config.crf or is_resized:
            return None
        return prediction.label_rows_function(*self._load(run), run.data_config, self.eval_config)

    def probability_function(self, run: run_dirs.Run) -> Callable[[np.ndarray], np.ndarray]:
        """Loads the network of a run as a function from one image to its probabilities.

        Args:
            run: The run.

        Returns:
            A function of an image, uint8 [H, W, channels], that returns float32
            [H, W, num_classes].

        Raises:
            UserError: As `label_function`; or there is an artefact, which gives labels only.
        """
        if self.model:
            raise UserError(
                f"--model={self.model} gives labels without probabilities: leave out "
                "--save_confidence and --save_probabilities, or leave out --model to use "
                "the run's checkpoint."
            )
        return prediction.probability_function(
            *self._load(run), run.data_config, **self._details(run)
        )

    def _load(self, run: run_dirs.Run) -> tuple[keras.Model | Network, ModelConfig]:
        """Loads the network, to be run by the engine, and its config."""

        def load() -> keras.Model:
            model = run_dirs.load_model(run, self.checkpoint)
            return prediction.for_inference(model, run.model_config, self.eval_config)[0]

        config, output_stride = run.model_config, self.eval_config.eval_output_stride
        if output_stride not in (None, config.output_stride):
            config = views.config_at_output_stride(config, output_stride)
        if self.engine == TENSORFLOW:
            return load(), config
        source = engines.source_of_run(run, self.checkpoint, self.eval_config, load)
        if self.engine == AUTO:
            return engines.automatic_network(source), config
        return engines.load_network(self.engine, source), config

    def _details(self, run: run_dirs.Run) -> dict:
        return {
            "eval_config": self.eval_config,
            "crf_parameters": run_dirs.crf_parameters(run.folder, self.crf_config),
            "displayed": run.dataset.displayed,
        }


BEST_CHECKPOINT = Inference()

"""Progress bars for terminals; if the output is not a terminal, lines are printed instead."""

import sys

import tqdm


class Progress:
    """Shows how far a training is, and how far its validation is.

    Args:
        total_steps: Steps of the whole run.
        first_step: Steps that were done before.
    """

    def __init__(self, total_steps: int, first_step: int):
        self._steps = _bar(total_steps, first_step, "training", "steps")
        self._images: tqdm.tqdm | None = None

    def show_steps(self, step: int, text: str) -> bool:
        """Shows the step and a text beside the bar; returns False where there is no terminal."""
        return _show(self._steps, step, text)

    def show_images(self, done: int, total: int, text: str) -> None:
        """Shows how many images of a validation are done."""
        if self._images is None:
            self._images = _bar(total, 0, "validation", "images")
        _show(self._images, done, text)
        if done == total:
            self._close_images()

    def print(self, text: str) -> None:
        """Prints a line that stays, above the bars."""
        tqdm.tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Ends the bars; what is printed next begins a line of its own."""
        self._close_images()
        self._steps.close()

    def _close_images(self) -> None:
        if self._images is not None:
            self._images.close()
            self._images = None


def _bar(total: int, first: int, title: str, unit: str) -> tqdm.tqdm:
    return tqdm.tqdm(
        total=total,
        initial=first,
        desc=title,
        file=sys.stdout,
        bar_format=f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}{{postfix}}",
        dynamic_ncols=True,
        leave=unit == "steps",
        disable=None,  # only a terminal has bars
    )


def _show(bar: tqdm.tqdm, done: int, text: str) -> bool:
    if bar.disable:
        return False
    bar.n = done
    bar.set_postfix_str(text)
    return True

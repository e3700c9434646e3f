"""Divides images that come without splits into those to train on and those to validate with.

The division is a function of the names: it is the same in every run and on every machine. Duplicate
images stay together, and every class that several groups hold occurs in both parts.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Sequence

from deeplab_tf.data import near_duplicates
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Division:
    """Which images are for validation."""

    is_val: tuple[bool, ...]  # one per image
    notes: tuple[str, ...]


def divide(
    names: Sequence[str],
    looks: Sequence[near_duplicates.Look],
    classes: Sequence[Collection[int]],
    val_share: float,
) -> Division:
    """Chooses the images for validation.

    Args:
        names: Of the images.
        looks: Of the images, to keep duplicates together.
        classes: The ids that occur in each image.
        val_share: Share of the images, between 0 and 1.

    Raises:
        UserError: There are too few images, or they all show the same.
    """
    num_val = round(val_share * len(names))
    if len(names) < 2:
        raise UserError(
            f"There is {counted(len(names), 'image')}, which cannot be divided into train and "
            "val. Add images, or give --val_share=0 to train without validation."
        )
    num_val = min(max(num_val, 1), len(names) - 1)
    groups, notes = _groups(looks, num_val)
    if len(groups) < 2:
        raise UserError(
            f"All {len(names)} images show the same, so validation would measure what was trained "
            "on. Give --val_share=0 to train without validation."
        )
    chosen = _choose(groups, names, classes, num_val)
    notes.append(
        f"There is no split for validation: {len(chosen)} of {len(names)} images, chosen by their "
        "names, become val (--val_share)."
    )
    return Division(tuple(index in chosen for index in range(len(names))), tuple(notes))


def _groups(
    looks: Sequence[near_duplicates.Look], num_val: int
) -> tuple[list[list[int]], list[str]]:
    """Images that have to stay together, and notes."""
    pairs = near_duplicates.find_alike(looks)
    groups = near_duplicates.groups(len(looks), pairs)
    if len(looks) - max(map(len, groups)) < num_val:  # too few are left beside the largest group
        equal = [pair for pair in pairs if pair[2] == "equal"]
        note = (
            f"{max(map(len, groups))} images look alike, as those of a fixed camera do: only equal "
            "ones were kept in one split. If they show one scene, define the splits yourself."
        )
        return near_duplicates.groups(len(looks), equal), [note]
    alike = [group for group in groups if len(group) > 1]
    if not alike:
        return groups, []
    num_images = sum(map(len, alike))
    return groups, [
        f"{num_images} images that show the same as another one (equal, nearly equal or mirrored) "
        f"stay in one split with it, in {counted(len(alike), 'group')}."
    ]


def _choose(
    groups: list[list[int]],
    names: Sequence[str],
    classes: Sequence[Collection[int]],
    num_val: int,
) -> set[int]:
    """The images for validation, by iterative stratification (Sechidis et al. 2011).

    Classes come one after the other, the rarest first; of each, groups are taken in a random order
    that their names decide, until validation has its share.
    """
    order = sorted(groups, key=lambda group: _hash(min(names[index] for index in group)))
    held = [set().union(*(classes[index] for index in group)) for group in order]
    choice = _Choice(order, held, num_val)
    by_rarity = sorted(choice.holders.items(), key=lambda item: (item[1], item[0]))
    for class_id, count in by_rarity:
        wanted = max(1, round(num_val * count / len(names)))
        holders = [place for place in range(len(order)) if class_id in held[place]]
        choice.take_some(holders, class_id, wanted)
    choice.take_some(range(len(order)))
    if not choice.places:  # every group holds a class that no other has: the fewest are lost
        alone = [sum(choice.holders[class_id] == 1 for class_id in classes) for classes in held]
        choice.take(min(range(len(order)), key=lambda place: (alone[place], len(order[place]))))
    return {index for place in choice.places for index in order[place]}


class _Choice:
    """The groups that were chosen for validation.

    Args:
        groups: All groups.
        held: The classes of each.
        num_val: How many images validation is to have.
    """

    def __init__(self, groups: list[list[int]], held: list[set[int]], num_val: int):
        self._groups = groups
        self._held = held
        self._num_left = num_val
        self.holders = collections.Counter(
            c for classes in held for c in classes
        )  # groups by class
        self.taken: collections.Counter = collections.Counter()  # chosen groups by class
        self.places: set[int] = set()

    def take(self, place: int) -> None:
        """Chooses a group."""
        self.places.add(place)
        self.taken.update(self._held[place])
        self._num_left -= len(self._groups[place])

    def take_some(
        self, places: Iterable[int], class_id: int | None = None, wanted: int = 0
    ) -> None:
        """Chooses groups that fit, as long as training keeps every class.

        Args:
            places: The groups to choose from, in order.
            class_id: A class; by default all are chosen from until validation is full.
            wanted: How many groups with this class validation is to have.
        """
        for place in places:
            is_enough = class_id is not None and self.taken[class_id] >= wanted
            if is_enough or self._num_left <= 0:
                return
            fits = len(self._groups[place]) <= self._num_left
            if fits and place not in self.places and self._leaves_every_class(place):
                self.take(place)

    def _leaves_every_class(self, place: int) -> bool:
        return all(self.taken[c] + 1 < self.holders[c] for c in self._held[place])


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()

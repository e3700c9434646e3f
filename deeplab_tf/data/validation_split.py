"""Divides images that come without splits into those to train on and those to validate with.

The division is a function of the names: it is the same in every run and on every machine. Images
that show the same stay together, and every class that several groups hold occurs in both parts.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Collection
from collections.abc import Sequence

from deeplab_tf.data import near_duplicates
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError

# Of all images; a larger group of images that look alike is a fixed camera, not copies.
_MAX_GROUP_SHARE = 0.5


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
        looks: Of the images, to keep together those that show the same.
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
    groups, notes = _groups(looks)
    if len(groups) < 2:
        raise UserError(
            f"All {len(names)} images show the same, so validation would measure what was trained "
            "on. Give --val_share=0 to train without validation."
        )
    num_val = min(max(num_val, 1), len(names) - 1)
    chosen = _choose(groups, names, classes, num_val)
    notes.append(
        f"There is no split for validation: {len(chosen)} of {len(names)} images, chosen by their "
        "names, become val (--val_share)."
    )
    return Division(tuple(index in chosen for index in range(len(names))), tuple(notes))


def _groups(looks: Sequence[near_duplicates.Look]) -> tuple[list[list[int]], list[str]]:
    """Images that have to stay together, and notes."""
    pairs = near_duplicates.find_alike(looks)
    groups = near_duplicates.groups(len(looks), pairs)
    if max(map(len, groups)) > _MAX_GROUP_SHARE * len(looks):
        equal = [pair for pair in pairs if pair[2] == "equal"]
        note = (
            f"{max(map(len, groups))} images look alike, as those of a fixed camera do: only equal "
            "ones were kept in one split. If they show one scene, give the splits yourself."
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
    share = num_val / len(names)
    order = sorted(groups, key=lambda group: _hash(min(names[index] for index in group)))
    classes_of = [set().union(*(classes[index] for index in group)) for group in order]
    holders = collections.Counter(c for held in classes_of for c in held)
    chosen: set[int] = set()  # of `order`
    num_chosen = 0

    def take(place: int) -> None:
        nonlocal num_chosen
        chosen.add(place)
        num_chosen += len(order[place])

    for class_id, count in sorted(holders.items(), key=lambda item: (item[1], item[0])):
        if count < 2:
            continue  # train needs the only one
        wanted = max(1, round(share * count))
        for place in range(len(order)):
            have = sum(class_id in classes_of[other] for other in chosen)
            if have >= wanted or num_chosen >= num_val:
                break
            if place in chosen or class_id not in classes_of[place]:
                continue
            if num_chosen + len(order[place]) > num_val and num_chosen:
                continue
            if _leaves_every_class(place, chosen, classes_of, holders):
                take(place)
    for place in range(len(order)):
        if num_chosen >= num_val:
            break
        if place in chosen or num_chosen + len(order[place]) > num_val:
            continue
        if _leaves_every_class(place, chosen, classes_of, holders):
            take(place)
    if not chosen:  # every group holds a class that no other has: the fewest are lost
        alone = [sum(holders[class_id] == 1 for class_id in held) for held in classes_of]
        take(min(range(len(order)), key=lambda place: (alone[place], len(order[place]))))
    return {index for place in chosen for index in order[place]}


def _leaves_every_class(
    place: int,
    chosen: set[int],
    classes_of: list[set[int]],
    holders: collections.Counter,
) -> bool:
    """Whether all classes of a group are also in a group that is trained on."""
    taken = collections.Counter(c for other in chosen for c in classes_of[other])
    return all(taken[c] + 1 < holders[c] for c in classes_of[place])


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()

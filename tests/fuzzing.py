"""Damaged files for tests, drawn by hypothesis with a fixed seed: every run sees the same ones."""

import json

import hypothesis
from hypothesis import strategies

fuzzed = hypothesis.settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@strategies.composite
def damaged(draw, originals: list[bytes]) -> bytes:
    """One of the originals with bytes changed, cut out, put in or repeated."""
    content = bytearray(draw(strategies.sampled_from(originals)))
    for _ in range(draw(strategies.integers(1, 4))):
        place = draw(strategies.integers(0, max(len(content) - 1, 0)))
        length = draw(strategies.integers(1, 40))
        change = draw(strategies.sampled_from(("flip", "cut", "insert", "end", "repeat", "fill")))
        if change == "flip" and content:
            content[place] ^= 1 << draw(strategies.integers(0, 7))
        elif change == "cut":
            del content[place : place + length]
        elif change == "insert":
            content[place:place] = draw(strategies.binary(min_size=1, max_size=8))
        elif change == "end":
            del content[place:]
        elif change == "repeat":
            content[place:place] = content[place : place + length]
        else:
            content[place : place + 4] = draw(strategies.sampled_from((b"\xff" * 4, bytes(4))))
    return bytes(content)


# What no tool writes, but what a damaged or forged file may hold.
WRONG_VALUES = (
    None, True, -1, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", "x" * 3000, "a\nb",
    "\ud800", "9" * 5000, [], {}, [[]], [None], [{}], {"a": 1},
)  # fmt: skip
JSON_VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.text(max_size=5)
    | strategies.integers() | strategies.floats(),
    lambda inner: strategies.lists(inner, max_size=3)
    | strategies.dictionaries(strategies.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def paths_in(value, path=()):
    """Yields the places of all values in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths_in(value[key], (*path, key))


@strategies.composite
def changed_json(draw, value) -> bytes:
    """A JSON file with another value somewhere, one less, or with bytes damaged."""
    value = json.loads(json.dumps(value))
    change = draw(strategies.sampled_from(("bytes", "value", "value", "remove")))
    if change == "bytes":
        return draw(damaged([json.dumps(value).encode(), b"[" * 50_000, b"\xff\xfe{\0}\0"]))
    *parents, last = draw(strategies.sampled_from(list(paths_in(value))[1:]))
    place = value
    for key in parents:
        place = place[key]
    if change == "remove":
        del place[last]
    else:
        place[last] = draw(strategies.sampled_from(WRONG_VALUES) | JSON_VALUES)
    return json.dumps(value).encode()

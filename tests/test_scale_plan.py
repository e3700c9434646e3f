"""benchmarks/scale.py: the formulas of the plan on paper."""

import importlib.util
import sys

import pytest

import conftest


@pytest.fixture(scope="module")
def scale():
    """The script as a module."""
    path = conftest.REPOSITORY / "benchmarks" / "scale.py"
    spec = importlib.util.spec_from_file_location("scale", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scale"]


def test_the_formulas_give_what_is_computed_by_hand(scale):
    # 50 TFLOP/s of 100 for 1 TFLOP forward and 2 backward: 50 / 3 images/s.
    assumed = {
        "tflops": 100,
        "price": 3.6,
        "training_share": 0.5,
        "inference_share": 0.25,
        "images_per_core": 10,
        "image_bytes": 1000,
        "label_bytes": 200,
        "images_per_step": 5,
        "scaling": 0.9,
    }
    one, four = (scale.rates(500_000_000_000, 1_000_000, assumed, count) for count in (1, 4))
    assert one.training_rate == pytest.approx(50 / 3)
    assert one.inference_rate == pytest.approx(25)
    assert one.training_cores == pytest.approx(5 / 3)
    assert one.inference_cores == pytest.approx(2.5)
    assert one.training_read == pytest.approx(50 / 3 * 1200)
    assert one.inference_read == pytest.approx(25_000)
    assert one.inference_written == pytest.approx(5_000)
    assert one.gradient_bytes == 0
    assert one.dollars_per_million == pytest.approx(0.001 * 1e6 / 25)

    assert four.training_rate == pytest.approx(4 * 0.9 * 50 / 3)
    assert four.inference_rate == pytest.approx(100)
    # 3 steps/s, 4 MB of gradients; in a ring, each sends 2 * 3/4 of them.
    assert four.gradient_bytes == pytest.approx(3 * 4e6 * 1.5)
    assert four.dollars_per_million == pytest.approx(one.dollars_per_million)


def test_the_script_prints_the_plan_and_the_origin_of_every_number(
    scale, short_network, capsys, monkeypatch
):
    monkeypatch.setattr(
        sys, "argv", ["scale.py", "--backbone=mobilenet_v2", "--size=65", "--image_bytes=2300000"]
    )
    scale.main()
    printed = capsys.readouterr().out
    assert "| accelerators | 1 | 8 | 64 | 512 |" in printed
    origins = printed.partition("| assumption ")[2].splitlines()[2:]
    assert len(origins) == len(scale.ASSUMPTIONS) + 2
    for line in origins:
        name, value, _, origin = line.strip("| ").split(" | ")
        if name == "image_bytes":
            assert (value, origin) == ("2.3e+06", "given by a flag")
        else:
            assert origin.startswith(("measured: ", "published: ", "chosen: "))


def test_every_measured_number_names_a_script_of_this_repository(scale):
    for assumption in scale.ASSUMPTIONS.values():
        if assumption.kind == scale.MEASURED:
            script = assumption.source.partition(":")[0]
            assert (conftest.REPOSITORY / script).is_file()


def test_the_guide_shows_what_the_script_prints(scale):
    guide = (conftest.REPOSITORY / "docs" / "guides" / "scale.md").read_text(encoding="utf-8")
    listed = scale.all_assumptions(scale.ACCELERATORS["a100"])
    for line in scale.assumptions_table(listed, {name: one.value for name, one in listed.items()}):
        assert line in guide

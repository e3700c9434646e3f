"""The list of `make bench` fits the scripts, and keeps what they print."""

import importlib.util
import re
import sys

import pytest

from conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["refresh"] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


def test_every_script_and_flag_of_the_list_exists(refresh):
    for benchmark in refresh.BENCHMARKS:
        text = (FOLDER / f"{benchmark.name}.py").read_text(encoding="utf-8")
        for argument in benchmark.arguments:
            assert f'"{argument.partition("=")[0]}"' in text, benchmark


def test_every_benchmark_of_the_list_has_a_file_of_its_own(refresh):
    names = [benchmark.result.name for benchmark in refresh.BENCHMARKS]
    assert len(set(names)) == len(names)
    assert "input_pipeline_size_64x48_crop_65.txt" in names


def test_what_a_benchmark_prints_is_kept_below_its_command(refresh, tmp_path):
    script = tmp_path / "twice.py"
    script.write_text("import sys; print('ratio 2.0', *sys.argv[1:])")
    benchmark = refresh.Benchmark("twice", ("--quick",))
    assert refresh.measure(benchmark, 60.0, script) == "ratio 2.0 --quick\n"
    command, date, machine, *_ = refresh.head(benchmark).splitlines()
    assert command == "python benchmarks/twice.py --quick"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
    assert re.search(r"\d+ CPU cores, [\d.]+ GiB memory", machine)


def test_a_benchmark_that_takes_too_long_is_stopped_and_one_that_fails_is_named(refresh, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    assert refresh.measure(refresh.Benchmark("script"), 0.5, script) is None
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"benchmarks/script.py failed"):
        refresh.measure(refresh.Benchmark("script"), 60.0, script)


def test_the_readme_names_every_script():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FOLDER.glob("*.py") if f"`{path.name}`" not in text] == []

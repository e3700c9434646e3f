"""`python -m deeplab_tf`: the list of commands, and running one by its name."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from conftest import COMMANDS
from conftest import REPOSITORY
from conftest import configs_of
from deeplab_tf import __main__ as overview
from deeplab_tf import command_line
from deeplab_tf import zoo


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "deeplab_tf", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_a_command_all_of_them_are_listed_without_tensorflow():
    code = (
        "import sys; sys.argv = ['deeplab-tf']\n"
        "from deeplab_tf import __main__; __main__.main()\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules), sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in overview.NAMES:
        assert re.search(rf"^    {re.escape(name)}  +[A-Z].*\.$", result.stdout, re.MULTILINE), name
    steps = [line for line in result.stdout.splitlines() if line.startswith("    deeplab-tf ")]
    assert max(len(line) for line in result.stdout.splitlines() if line not in steps) <= 100
    assert len(steps) == sum(map(len, overview.FIRST_STEPS.values()))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_help_lists_the_commands_by_the_way_that_it_was_called(arguments):
    result = run(*arguments)
    assert result.returncode == 0
    assert result.stdout == overview.overview("python -m deeplab_tf") + "\n"


@pytest.mark.parametrize("name", overview.NAMES)
def test_a_listed_command_is_a_module_whose_docstring_begins_with_one_sentence(name):
    spec = importlib.util.find_spec(f"deeplab_tf.{name}")
    assert spec is not None
    assert re.fullmatch(r"[A-Z][a-z]+s\b.*\.", overview.summary(name))


@pytest.mark.parametrize("name, flag", [("train", "--run_dir"), ("datasets.build", "--dataset")])
def test_a_command_runs_by_its_name_as_its_module_does(name, flag):
    assert run(name, "--help").stdout == (
        subprocess.run(
            [sys.executable, "-m", f"deeplab_tf.{name}", "--help"], capture_output=True, text=True
        ).stdout
    )
    result = run(name, "--no_such_flag=1")
    assert result.returncode == 1 and "there is no flag --no_such_flag" in result.stderr
    assert flag in run(name, "--help").stdout


def test_the_zoo_runs_by_its_name():
    assert "xception_65_imagenet" in run("zoo", "list").stdout


@pytest.mark.parametrize(
    "word, complaint",
    [
        ("trian", "there is no command 'trian'. Did you mean train?"),
        ("check-data", "Did you mean check_data?"),
        ("build", "Did you mean datasets.build?"),
        ("exprot.tflite", "Did you mean export.tflite?"),
        ("deeplab_tf.predict", "Did you mean predict?"),
        ("describe.py", "Did you mean describe?"),
        ("xyz", "there is no command 'xyz'. python -m deeplab_tf lists"),
        ("--run_dir=RUN", "the name of a command comes first, before --run_dir=RUN"),
        ("a" * 1000, f"'{'a' * 100}...'"),
    ],
)
def test_what_is_not_a_command_is_corrected(word, complaint):
    result = run(word, "--run_dir=RUN")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and complaint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("line", sum(overview.FIRST_STEPS.values(), ()))
def test_the_flags_of_the_first_steps_are_right(line):
    name, *arguments = shlex.split(line)
    assert name in overview.NAMES
    if f"deeplab_tf.{name}" in COMMANDS:
        command_line.parse(arguments, *configs_of(f"deeplab_tf.{name}"))


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_demo_photos_labels_a_folder_with_released_weights(tmp_path):
    planned = make("--dry-run", "demo-photos", f"PHOTOS={tmp_path}").stdout.replace("\\\n", "")
    (line,) = [line for line in planned.splitlines() if "deeplab_tf.predict" in line]
    _, _, module, *arguments = shlex.split(line)
    own, *_ = command_line.parse(arguments, *configs_of(module))
    assert own.images == (str(tmp_path),) and own.weights in zoo.ENTRIES


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("arguments", [(), ("PHOTOS=/no/such/folder",)])
def test_demo_photos_asks_for_a_folder_before_it_installs_anything(arguments):
    result = make("demo-photos", *arguments)
    assert result.returncode == 2
    assert result.stdout == "Give a folder of photos: make demo-photos PHOTOS=FOLDER\n"

"""LiteRT.js, which runs `.tflite` files in browsers: its files, from npm, a folder or a CDN.

They are not part of this package. `web_page/package-lock.json` names their version and their
digests, which npm checks.
"""

import dataclasses
import importlib.resources
import json
import pathlib
import shutil
import subprocess
import tempfile

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

CDN = "https://cdn.jsdelivr.net"

# The variants of the WebAssembly, the fastest first. "relaxed" is about a sixth faster, and needs
# relaxed SIMD, which Safari does not have; "compat" runs everywhere.
VARIANTS = ("relaxed", "compat")
_ENDINGS = {"relaxed": "litert_wasm_internal", "compat": "litert_wasm_compat_internal"}


def _files(variant: str) -> dict[str, tuple[str, str]]:
    """The package of each file and its path there, by the name that the page knows it under."""
    return {
        "core": ("@litertjs/core", "dist/index.js"),
        "utils": ("@litertjs/wasm-utils", "dist/index.js"),
        "loader": ("@litertjs/core", f"wasm/{_ENDINGS[variant]}.js"),
        "wasm": ("@litertjs/core", f"wasm/{_ENDINGS[variant]}.wasm"),
    }


_PACKAGE_FILES = ("package.json", "package-lock.json")
_SECONDS_FOR_NPM = 600


@dataclasses.dataclass(frozen=True)
class LiteRtJs:
    """The files of LiteRT.js.

    Attributes:
        version: Version of the package `@litertjs/core`.
        variants: By variant and name: "core" and "utils", which are JavaScript modules; "loader",
            the script that starts the WebAssembly; and "wasm".
    """

    version: str
    variants: dict[str, dict[str, bytes]]


def version() -> str:
    """Returns the version of `@litertjs/core` that pages are made with."""
    lock = json.loads(_web_page_file("package-lock.json"))
    return lock["packages"]["node_modules/@litertjs/core"]["version"]


def cdn_urls() -> dict[str, dict[str, str]]:
    """Returns where the files lie on the CDN, by variant and name."""
    return {
        variant: {
            name: f"{CDN}/npm/{package}@{version()}/{path}"
            for name, (package, path) in _files(variant).items()
        }
        for variant in VARIANTS
    }


def find(folder: str | None = None) -> LiteRtJs:
    """Returns LiteRT.js: that of a folder, or that of the cache, which npm fills once.

    Args:
        folder: A `node_modules` folder with the packages `@litertjs/core` and
            `@litertjs/wasm-utils`, a folder that has one, or the folder of `@litertjs/core` in it;
            None for the cache.

    Raises:
        UserError: The folder does not have the files; or they are not in the cache, and npm is
            missing or fails.
    """
    if folder is not None:
        return _in_folder(files.as_path(files.real(folder)))
    cached = files.cache_folder() / "litert_js" / version()
    if not cached.is_dir():
        _install(cached)
    return _read(cached)


def _in_folder(folder: pathlib.Path) -> LiteRtJs:
    for modules in (folder, folder / "node_modules", folder.parent.parent):
        if (modules / "@litertjs/core").is_dir():
            return _read(modules)
    raise UserError(
        f"--litert_js={folder} is not a folder with the package @litertjs/core: make one by "
        f"`npm install @litertjs/core@{version()}`, and give its node_modules."
    )


def _read(modules: pathlib.Path) -> LiteRtJs:
    try:
        about = json.loads((modules / "@litertjs/core/package.json").read_text(encoding="utf-8"))
        content = {
            variant: {
                name: (modules / package / path).read_bytes()
                for name, (package, path) in _files(variant).items()
            }
            for variant in VARIANTS
        }
        return LiteRtJs(str(about["version"]), content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{modules} does not hold the whole of LiteRT.js ({error}): delete it, and install "
            f"@litertjs/core {version()} again."
        ) from error


def _install(place: pathlib.Path) -> None:
    """Installs the packages by npm into a folder of the cache."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"LiteRT.js is not on this machine, and npm, which fetches it, is not either. Install "
            f"Node.js; or fetch it elsewhere by `npm install @litertjs/core@{version()}`, and give "
            "the folder node_modules by --litert_js; or let the page load it: --cdn."
        )
    print(f"LiteRT.js {version()}: npm fetches it into {place}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in _PACKAGE_FILES:
            (pathlib.Path(folder) / name).write_bytes(_web_page_file(name))
        # One retry: without a network, more of them take minutes.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        try:
            subprocess.run(
                command,
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS_FOR_NPM,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()
            raise UserError(
                f"npm cannot fetch LiteRT.js: {shortened(said, 500)}\nWithout a network, give a "
                "folder that holds it by --litert_js; or let the page load it: --cdn."
            ) from error
        _publish(pathlib.Path(folder) / "node_modules", place)


def _publish(modules: pathlib.Path, place: pathlib.Path) -> None:
    try:
        with files.replacing(place) as draft:
            needed = {place for variant in VARIANTS for place in _files(variant).values()}
            for package, path in [*needed, ("@litertjs/core", "package.json")]:
                (draft / package / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(modules / package / path, draft / package / path)
    except OSError as error:
        if not place.is_dir():  # or another process was faster
            raise UserError(
                f"{place} cannot be written ({error}): name another folder in the environment "
                "variable DEEPLAB_TF_CACHE."
            ) from error


def _web_page_file(name: str) -> bytes:
    return (importlib.resources.files(__package__) / "web_page" / name).read_bytes()

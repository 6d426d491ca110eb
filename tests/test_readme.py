"""What the README shows works as it is typed there."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import kbn

HOME = Path(kbn.__file__).parent
README = (HOME / "README.md").read_text(encoding="utf-8")


def test_the_examples_print_what_they_say():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    printed = [float(line.split()[-1]) for line in output.getvalue().splitlines()]
    said = [float(number) for number in re.findall(r"# (0\.\d+)\n", code)]
    assert len(said) == 2
    assert printed == pytest.approx(said, abs=0.02)  # another BLAS may round otherwise


def test_every_file_and_figure_it_names_is_there():
    names = re.findall(r"`([\w/]+\.py)`", README) + re.findall(r"\]\((figures/[^)]+)\)", README)
    assert len(names) > 8
    for name in names:
        assert (HOME / name).exists(), name


def test_every_script_is_named_there():
    for script in [*HOME.glob("*.py"), *HOME.glob("bench/*.py")]:
        assert f"`{script.relative_to(HOME).as_posix()}`" in README, script

"""What the README shows works as it is typed there."""
import contextlib
import io
import re
from pathlib import Path

import kbn

HOME = Path(kbn.__file__).parent
README = (HOME / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    printed, said = float(output.getvalue().split()[-1]), float(re.search(r"# (0\.\d+)\n", code)[1])
    assert abs(printed - said) <= 0.02  # another BLAS may round otherwise


def test_every_file_and_figure_it_names_is_there():
    names = re.findall(r"`([\w/]+\.py)`", README) + re.findall(r"\]\((figures/[^)]+)\)", README)
    assert len(names) > 8
    for name in names:
        assert (HOME / name).exists(), name


def test_every_script_is_named_there():
    for script in [*HOME.glob("*.py"), *HOME.glob("bench/*.py")]:
        assert f"`{script.relative_to(HOME).as_posix()}`" in README, script

"""The one file to hand in is whole, runs without the repository, and gives the drivers' numbers."""

import ast
import builtins
import importlib.util
import inspect
import pickle
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import HOME, SMALL, call, environment, results_of

import datasets
import kbn
import make_submission

SOURCES = make_submission.read_sources()
DRIVERS = "run_ex2", "run_ex3", "run_sensitivity"
# the three drivers in one process, without the time that figures take
ALL_DRIVERS = f"""
import matplotlib.figure
matplotlib.figure.Figure.savefig = lambda *args, **options: None
import {", ".join(DRIVERS)}
for driver in ({", ".join(DRIVERS)}):
    driver.main()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """assignment3.py, made by the command."""
    out = tmp_path_factory.mktemp("out") / "new folder"
    made = call("make_submission", "--out", out, cwd=out.parent)
    assert made.returncode == 0 and str(out / "assignment3.py") in made.stdout, made.stderr
    assert [path.name for path in out.iterdir()] == ["assignment3.py"]
    return out / "assignment3.py"


@pytest.fixture(scope="module")
def module(file):
    """assignment3.py, imported."""
    spec = importlib.util.spec_from_file_location("assignment3", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(file, *options, cwd):
    """Run assignment3.py without the repository and without anybody's data. Returns the finished process."""
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(file), *map(str, options)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )


# ------------------------------------------------------------------------------------------------------ the file itself


def test_every_definition_is_there_once_and_is_used(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names, used = [], set()
    for statement in tree.body:
        own = make_submission.bound([statement]) if not make_submission.is_main(statement) else []
        names += own
        used |= {
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        } - set(own)
    assert len(names) == len(set(names)) > 100
    assert set(names) <= used
    assert not set(names) & set(dir(builtins))


def test_it_imports_the_standard_library_numpy_and_matplotlib_alone(file):
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert {"numpy", "matplotlib"} <= found <= sys.stdlib_module_names | {"numpy", "scipy", "matplotlib"}


def test_texts_docstrings_and_equation_numbers_are_kept(file):
    text = file.read_text(encoding="utf-8")
    main = SOURCES[make_submission.TEMPLATE]["main"]
    chosen = make_submission.closure(SOURCES, [main], make_submission.stand_ins(SOURCES))
    used = {definition.names[0]: getattr(kbn, definition.names[0]) for definition in chosen if definition.module == "kbn"}
    functions = {name: value for name, value in used.items() if inspect.isfunction(value)}
    assert {"forward", "backward", "batch_norm_backpass", "minibatch_gd", "update_stats", "cyclical_eta"} <= functions.keys()
    numbers = set()
    for name, value in functions.items():
        assert inspect.getsource(value) in text, name
        numbers |= {int(number) for number in re.findall(r"\((\d+)\)", inspect.getsource(value))}
    assert numbers >= set(range(1, 40))
    theirs, ours = ast.parse((HOME / "gradcheck.py").read_text()), ast.parse(text)
    documented = {node.name: ast.get_docstring(node) for node in ours.body if isinstance(node, ast.FunctionDef)}
    for node in theirs.body:
        if isinstance(node, ast.FunctionDef) and node.name != "main":
            name = node.name if node.name in documented else f"gradcheck_{node.name}"
            assert documented[name] == ast.get_docstring(node)


def test_it_reads_from_top_to_bottom_in_the_order_of_the_assignment(file):
    text = file.read_text(encoding="utf-8")
    places = [
        text.index(f"\ndef {name}(")
        for name in (
            "mean_and_sd",
            "read_cifar10",
            "draw_shapes",
            "load",
            "init_params",
            "forward",
            "backward",
            "compute_cost",
            "complex_step_gradient",
            "cyclical_eta",
            "minibatch_gd",
            "run_ex2_main",
            "run_ex3_main",
            "run_sensitivity_main",
            "curves",
            "main",
        )
    ]
    assert places == sorted(places)
    lines = text.split("\n")
    assert all(len(line) <= 160 and line == line.rstrip() for line in lines)
    assert {len(line) for line in lines if line.startswith("# ----")} == {make_submission.WIDTH}
    assert not re.search(r"\n\n\n\n", text)


def test_making_it_again_gives_the_same(file):
    assert make_submission.submission(make_submission.read_sources()) == file.read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- what it computes


def test_smoke_gives_the_drivers_numbers_to_the_bit_without_the_repository(file, tmp_path):
    alone, theirs = tmp_path / "alone", tmp_path / "theirs"
    alone.mkdir()
    job = run(file, "--smoke", cwd=alone)
    assert job.returncode == 0, job.stderr
    assert "NOT on CIFAR-10" in job.stderr and "Traceback" not in job.stderr
    assert {path.name for path in alone.iterdir()} == {"results", "figures"}
    drivers = subprocess.run(
        [sys.executable, "-c", ALL_DRIVERS, *SMALL, "--jobs", "1", "--quiet", "--out", theirs],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert drivers.returncode == 0, drivers.stderr

    ours, expected = results_of(alone), results_of(theirs)
    assert ours.keys() == expected.keys() and len(ours) == 2 + 6 + 20 + 1 + 18
    for name, result in expected.items():
        for part in ("config", "seed", "val_accuracy", "history"):
            assert ours[name][part] == result[part], (name, part)
        assert ours[name]["versions"].items() <= result["versions"].items()
        assert ours[name].get("test_accuracy") == result.get("test_accuracy")
        assert ours[name]["dataset"]["fingerprint"] == result["dataset"]["fingerprint"]
    tables = [path.relative_to(theirs) for path in theirs.rglob("*") if path.suffix in (".md", ".csv")]
    assert len(tables) == 2 * 4
    for table in tables:
        assert (alone / table).read_text() == (theirs / table).read_text(), table
    assert (alone / "results" / "gradcheck.md").exists() and "all within the bars" in job.stdout
    figures = {path.name for path in theirs.rglob("*.png")}
    assert {path.name for path in alone.rglob("*.png") if path.stat().st_size > 10_000} == figures != set()


def test_it_reads_the_official_batches_as_datasets_does(module, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = rng.integers(256, size=(10_000, 3072), dtype=np.uint8)
    for name in datasets.CIFAR10_FILES:
        batch = {b"data": pixels, b"labels": rng.integers(10, size=10_000).tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    raw = datasets.load("cifar10", folder, small=True)
    paths = [folder / name for name in datasets.CIFAR10_FILES]
    assert module.find_cifar10(folder) == module.find_cifar10(str(tmp_path)) == paths
    monkeypatch.setenv("KBN_DATA_DIR", str(tmp_path))
    found = module.load(None, True)
    assert found.keys() == raw.keys() and found["fingerprint"] == raw["fingerprint"]
    assert all(found[key] == raw[key] for key in ("name", "title", "classes", "shape"))
    (folder / "data_batch_4").unlink()
    with pytest.raises(module.DataError, match="data_batch_4 is missing"):
        module.find_cifar10(tmp_path)


@pytest.mark.parametrize(
    "options, status, said",
    [
        (["--data-dir", "not here"], 1, "data_batch_1 is missing"),
        (["--seeds", "0"], 2, "'0' is not a whole number of 1 or more"),
        (["--job", "2"], 2, "--job"),
    ],
)
def test_what_is_typed_wrong_is_named_in_one_line(file, options, status, said, tmp_path):
    wrong = run(file, *options, cwd=tmp_path)
    assert wrong.returncode == status and said in wrong.stderr.splitlines()[-1] and "Traceback" not in wrong.stderr
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- one function


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(kbn, inspect.isfunction)])
def test_a_printed_function_runs_by_itself(name):
    text, scope = make_submission.function(SOURCES, name), {}
    exec(compile(text, name, "exec"), scope)
    assert scope[name].__doc__ == getattr(kbn, name).__doc__
    assert inspect.getsource(getattr(kbn, name)).rstrip() in text
    defined = [one for statement in ast.parse(text).body for one in make_submission.bound([statement])]
    assert len(defined) == len(set(defined))


def test_printed_batch_norm_backpass_gives_the_same_numbers(tmp_path):
    printed = call("make_submission", "--function", "batch_norm_backpass", cwd=tmp_path)
    assert printed.returncode == 0 and printed.stdout.startswith("import numpy as np\n\nEPS = ")
    assert all(f"({n})" in printed.stdout for n in range(31, 38))
    assert re.findall(r"^def (\w+)", printed.stdout, re.MULTILINE) == ["ones_n", "batch_norm_backpass"]
    scope, rng = {}, np.random.default_rng(0)
    exec(printed.stdout, scope)
    G, S = rng.standard_normal((2, 7, 9))
    mu, v = S.mean(axis=1, keepdims=True), S.var(axis=1, keepdims=True)
    assert np.array_equal(scope["batch_norm_backpass"](G, S, mu, v), kbn.batch_norm_backpass(G, S, mu, v))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, said",
    [
        ("batch_norm_backpas", "did you mean batch_norm_backpass"),
        ("kbn.foward", "did you mean kbn.forward"),
        ("main", "several modules define main: say "),
        ("kbn", "there is no kbn"),
        ("experiment.provenance", "the module datasets as a whole cannot be copied"),
    ],
)
def test_what_cannot_be_printed_is_one_line(name, said, capsys):
    with pytest.raises(SystemExit) as exit:
        make_submission.main(["--function", name])
    assert said in str(exit.value) and "\n" not in str(exit.value)
    assert capsys.readouterr().out == ""


def test_a_wrong_name_or_option_is_no_traceback(tmp_path):
    wrong = call("make_submission", "--function", "batch_norm_backpas", cwd=tmp_path)
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1 and "batch_norm_backpass" in wrong.stderr
    (tmp_path / "a file").write_text("")
    wrong = call("make_submission", "--out", tmp_path / "a file", cwd=tmp_path)
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1 and "a file" in wrong.stderr
    assert call("make_submission", "--functions", "forward", cwd=tmp_path).returncode == 2


def test_list_names_all(capsys):
    make_submission.main(["--list"])
    names = capsys.readouterr().out.split()
    assert {"kbn.forward", "gradcheck.BARS", "plots.STYLES", "layers.conv_forward"} <= set(names)
    assert len(names) == len(set(names))


# --------------------------------------------------------------------------------------------------- names and closures


def project(folder, **modules):
    """A folder of modules, given by name as indented text, and what read_sources makes of it."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return make_submission.read_sources(folder)


TOOLS = """
    import functools
    from other import scale as factor

    SIZE = 3  # of tools
    A, B = 1, 2

    def keep(function):
        @functools.wraps(function)
        def wrapped(*args, **options):
            return function(*args, **options) + SIZE
        return wrapped


    # what stands above
    # is kept

    @keep
    def draw(x, size=SIZE, *, b=B):
        return factor * x + size + b


    def unused():
        return A
    """
OTHER = """
    import math

    SIZE, scale = 10, 7


    def draw(x):
        return math.sqrt(x) * SIZE


    def print(x):
        return x
    """
USER = '''
    import other
    import tools
    from tools import draw as paint


    class Thing:
        """A thing."""
        size = tools.SIZE

        def area(self, draw=2):
            size = 5
            return (self.size * draw + size + other.draw(
                        4) + tools.draw(1, size=1))  # (7)


    def value(draw, SIZE=4):
        """The value of draw, with ± and ²: tools.SIZE is tools.SIZE."""
        both = f"ä{tools.SIZE:>{other.SIZE}}² {[tools.SIZE * other for other in range(3)]!r} {'tools.SIZE'} {SIZE}"
        squares = {tools: tools * 2 for tools in range(2)}
        return [draw, both, squares, paint(2), other.draw(9), other.print(3),
                (lambda SIZE: SIZE + tools.SIZE)(1), Thing().area(), __name__]
    '''


def test_names_that_clash_are_told_apart(tmp_path, monkeypatch):
    sources = project(tmp_path, tools=TOOLS, other=OTHER, user=USER)
    text, scope = make_submission.function(sources, "user.value"), {"__name__": "user"}
    exec(text, scope)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tools", "other", "user"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import user

    assert scope["value"](1) == user.value(1)
    for name in ("tools", "other", "user"):
        monkeypatch.delitem(sys.modules, name)
    assert "tools_draw(1, size=1))  # (7)" in text and "TOOLS_SIZE = 3  # of tools" in text and "unused" not in text
    assert "# what stands above\n# is kept\n\n@keep\ndef tools_draw" in text
    assert "tools.SIZE is tools.SIZE" in text and "'tools.SIZE'" in text  # text is no reference
    assert "def other_print" in text and text.startswith("import functools\nimport math\n\n")


def test_lines_within_brackets_stay_below_their_bracket(tmp_path):
    sources = project(
        tmp_path,
        tools="def add(*numbers):\n    return sum(numbers)\n",
        user="""
        import tools


        def value(x):
            y = tools.add(x,
                          tools.add(1,  # one
                                    2),
                          # three
                          3)
            return tools.add(
                y, 4)
        """,
    )
    text = make_submission.function(sources, "value")
    assert text.endswith(
        textwrap.dedent("""
        def value(x):
            y = add(x,
                    add(1,  # one
                        2),
                    # three
                    3)
            return add(
                y, 4)
        """)
    )


@pytest.mark.parametrize(
    "user, said",
    [
        ("import tools\n\ndef value():\n    return getattr(tools, 'draw')\n", "user.py, line 4: the module tools as a whole"),
        ("import tools\n\ndef value():\n    return tools.drew\n", "user.py, line 4: there is no tools.drew"),
        ("def value():\n    import tools\n    return tools.draw\n", "user.py, line 2: tools is imported within a function"),
        ("def value():\n    return nothing\n", "user.py, line 2: nothing is defined nowhere"),
        ("import tools\n\ndef value():\n    return (tools\n            .draw)\n", "line 4: write module.name in one line"),
        ("import tools\n\ndef value():\n    return f'{tools.A = }'\n", "a name in it cannot be rewritten"),
        ("def value():\n    pass\n\ndef value():\n    pass\n", "user.py, line 4: value is defined twice"),
    ],
)
def test_what_cannot_be_followed_is_said(user, said, tmp_path):
    with pytest.raises(make_submission.SubmissionError, match=re.escape(said)):
        make_submission.function(project(tmp_path, tools=TOOLS, other=OTHER, user=user), "user.value")


def test_a_package_that_may_not_be_used_is_named_with_the_way_to_it(tmp_path):
    sources = project(
        tmp_path,
        tools="import pooch\n\ndef fetch():\n    return pooch.retrieve\n",
        user="import tools\n\ndef load():\n    return tools.fetch()\n\ndef main():\n    load()\n",
    )
    with pytest.raises(
        make_submission.SubmissionError, match=re.escape("pooch may not be used, but tools.fetch <- user.load <- user.main")
    ):
        make_submission.closure(sources, [sources["user"]["by_name"]["main"]], allowed=make_submission.ALLOWED)


def test_statements_for_effect_come_with_what_they_act_on(tmp_path):
    sources = project(
        tmp_path,
        user="""
        import numpy as np

        TABLE = {}
        TABLE["one"] = 1
        np.set_printoptions(precision=8)


        def value():
            return TABLE["one"]
        """,
    )
    text = make_submission.function(sources, "value")
    assert 'TABLE = {}\nTABLE["one"] = 1\n\n\ndef value' in text and "numpy" not in text

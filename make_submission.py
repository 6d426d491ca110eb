"""Make the one file to hand in, or print one function with everything that it needs.

    python make_submission.py                                  # writes submission/assignment3.py
    python make_submission.py --exercise 4                     # the same with Exercise 4
    python make_submission.py --document mnist                 # writes submission/mnist.zip, all code of run_mnist.py
    python make_submission.py --function batch_norm_backpass   # prints it, ready to paste into a report
    python make_submission.py --list                           # the functions that --function knows

The one file holds everything that the main() of handin/assignment3.py needs. The names of the modules are left out:
kbn.forward is forward there. With the same seeds and one BLAS thread (OPENBLAS_NUM_THREADS=1) its numbers are bit-identical
to those of the drivers. Write your name and id into its head. A file that you have changed is not replaced.
"""

import ast
import difflib
import io
import modulefinder
import re
import sys
import textwrap
import zipfile
from collections import namedtuple
from pathlib import Path

from lab.settings import DEFAULTS, HOME, UserError, make_folder, parser, run_main
from lab.tables import write
from run_ex4 import RECIPE

HANDIN = "assignment3"
ONE_FILE = {  # file: heading
    "kbn": "the method",
    "gradcheck": "numerical gradients",
    "lab/gradients": "the gradient checks",
    "jitter": "jitter of mini-batches",
    "lab/recipes": "update rule and learning rate of Exercise 4",
    "lab/training": "whitening and prediction in Exercise 4",
    f"handin/{HANDIN}": "the exercises",
}
DOCUMENTS = ["solver", "mnist", "fashion"]  # each has a driver, run_NAME.py
METHOD = ["kbn", "layers", "nets", "gradcheck"]  # the sources of --function; each imports only earlier ones
IMPORTS = ast.Import, ast.ImportFrom

Definition = namedtuple(
    "Definition", "source names node text"
)  # a statement at top level; its text begins behind the one above


def read_sources(files, changes=None):
    """Return {source: {name: Definition}} of files below HOME, in their order; a source is the name of a file.

    Imported names are among the names, and "docstring" and "__main__" for the module's docstring and its main guard.
    changes {old: new} are made in the texts before.
    """
    sources = {}
    for file in files:
        source, text, end, found = Path(file).name, (HOME / f"{file}.py").read_text(encoding="utf-8"), 0, {}
        for old, new in (changes or {}).items():
            text = text.replace(old, new)
        for node in ast.parse(text).body:
            if isinstance(node, IMPORTS):
                names = [part.asname or part.name for part in node.names]
            elif isinstance(node, ast.Assign):
                names = [part.id for part in ast.walk(node.targets[0]) if isinstance(part, ast.Name)]
            else:
                names = [getattr(node, "name", "__main__" if isinstance(node, ast.If) else "docstring")]
            definition = Definition(source, tuple(names), node, "\n".join(text.split("\n")[end : node.end_lineno]))
            found, end = found | dict.fromkeys(names, definition), node.end_lineno
        sources[source] = found
    return sources


def needed(source, name, sources):
    """Return the Definitions that a name of a source needs, its own included, in the order of sources. They can run in it."""
    found, todo = set(), [(source, name)]
    while todo:
        source, name = todo.pop()
        if (source, name) not in found and name in sources.get(source, {}):
            found.add((source, name))
            for node in ast.walk(sources[source][name].node):
                if isinstance(node, ast.Name):
                    todo.append((source, node.id))
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    todo.append((node.value.id, node.attr))
    definitions = [sources[source][name] for source in sources for name in sources[source] if (source, name) in found]
    return list(dict.fromkeys(definitions))  # one statement may define several names


def import_lines(definitions, sources):
    """Return the import statements among definitions, except those of sources: (not of the standard library, from, line)."""
    lines = [ast.unparse(definition.node) for definition in definitions
             if isinstance(definition.node, IMPORTS) and sources.keys().isdisjoint(definition.names)]  # fmt: skip
    packages = {line: re.split(r"[ .]", line)[1] for line in lines}
    return sorted((package not in sys.stdlib_module_names, line.startswith("from"), line) for line, package in packages.items())


def join(definitions):
    """Return the text of definitions without the imports."""
    return "\n".join(definition.text for definition in definitions if not isinstance(definition.node, IMPORTS)).strip("\n")


def without_prefixes(text, definitions):
    """Return text without the sources before the names of definitions. Raises UserError if two have the same name."""
    names = [(definition.source, name) for definition in definitions if not isinstance(definition.node, IMPORTS)
             for name in definition.names]  # fmt: skip
    bare = [name for _, name in names]
    if twice := {name for name in bare if bare.count(name) > 1}:
        raise UserError(f"two files define {', '.join(sorted(twice))}, and both are needed; one must get another name")
    return re.sub(rf"\b({'|'.join(map('.'.join, names))})\b", lambda match: match[0].partition(".")[2], text)


def exercise_4():
    """Return what Exercise 4 changes in the text of the one file, see read_sources."""
    recipe = repr({name: value for name, value in RECIPE["config"].items() if value != DEFAULTS[name]}).replace("'", '"')
    return {
        "2, 3 or sensitivity": "2, 3, 4 or sensitivity",
        "in half a minute": "in a minute",
        "matplotlib are needed.\n": "matplotlib are needed.\nExercise 4 takes hours with each seed.\n",
        '"3": exercise_3,': '"3": exercise_3, "4": exercise_4,',
        'RECIPE = run_ex4.RECIPE["config"]': textwrap.fill(f"RECIPE = {recipe}", 120, subsequent_indent=10 * " "),
    }


def submission(changes=None):
    """Return the text of the one file. changes: see read_sources."""
    sources = read_sources(ONE_FILE, changes)
    definitions = needed(HANDIN, "__main__", sources)
    citation = (HOME / "CITATION.cff").read_text(encoding="utf-8")
    version = ", ".join(map(" ".join, re.findall(r"^(?:date-)?(version|commit|released): (.+)", citation, re.MULTILINE)))
    notation = ast.literal_eval(sources["kbn"]["docstring"].text).partition("\n\n")[2].strip()
    imports = "\n".join(line for *_, line in import_lines(definitions, sources))
    text = sources[HANDIN]["docstring"].text.replace("{version}", version).replace("{notation}", notation)
    text += "\n\n" + imports.replace("\nimport numpy", "\n\nimport numpy") + "\n"
    for file, heading in ONE_FILE.items():
        own = join([definition for definition in definitions if definition.source == Path(file).name])
        text += f"\n# {' ' + heading:=>115}\n\n{own}\n\n" if own else ""
    return re.sub(r"\n{4,}", "\n\n\n", without_prefixes(text, definitions)).strip("\n") + "\n"


def archive(document):
    """Return the bytes of a zip archive of a document's driver with all code that it needs, which runs once it is unpacked."""
    finder = modulefinder.ModuleFinder([str(HOME)])  # it finds nothing but modules of the project
    finder.run_script(str(HOME / f"run_{document}.py"))
    files = [Path(module.__file__) for module in finder.modules.values() if module.__file__]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as file:
        for path in sorted([*files, HOME / "requirements.txt", HOME / "LICENSE"]):
            file.write(path, Path(document, path.relative_to(HOME)))
    return content.getvalue()


def functions(sources):
    """Return the names of all functions, source.name; main needs more than the method."""
    return [f"{source}.{name}" for source in sources for name, definition in sources[source].items()
            if isinstance(definition.node, ast.FunctionDef) and name != "main"]  # fmt: skip


def function(name):
    """Return the text of a function and of everything that it needs; the latter without docstrings and checks of the input.

    Raises UserError if there is no such function.
    """
    sources = read_sources(METHOD)
    known = functions(sources)
    found = [full for full in known if name in (full, full.partition(".")[2])]
    if not found:
        near = difflib.get_close_matches(name.rpartition(".")[2], {full.partition(".")[2] for full in known}, 4, 0)
        raise UserError(f"there is no function {name!r}; the nearest are {', '.join(near)}")
    source, name = found[0].split(".")
    short = {file: {other: definition if other == name and file == source else shortened(definition)
                    for other, definition in own.items()} for file, own in sources.items()}  # fmt: skip
    definitions = needed(source, name, short)
    imports = dict.fromkeys(["import numpy as np", *(line for *_, line in import_lines(definitions, sources))])
    text = "\n".join(imports) + "\n\n" + re.sub(r"# -{4}.*", "", join(definitions)) + "\n"
    return re.sub(r"\n{3,}", "\n\n", without_prefixes(text, definitions))


def shortened(definition):
    """Return a Definition of a function without docstring and checks of its input, unless it does nothing but check."""
    node, lines = definition.node, definition.text.split("\n")
    if not isinstance(node, ast.FunctionDef):
        return definition
    start = node.lineno - next(i for i, line in enumerate(lines) if line.startswith("def "))  # comments may come before it
    docs = [part for part in node.body[:1] if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
    checks = [part for part in node.body[len(docs) :] if isinstance(part, ast.If) and isinstance(part.body[0], ast.Raise)
              or isinstance(part, ast.Expr) and ast.unparse(part).startswith("check_")]  # fmt: skip
    for part in reversed(docs + checks * (len(docs + checks) < len(node.body))):
        del lines[part.lineno - start : part.end_lineno - start + 1]
    return definition._replace(text="\n".join(lines), node=ast.parse("\n".join(lines)).body[0])


def main():
    options = parser(__doc__)
    choice = options.add_mutually_exclusive_group()
    choice.add_argument("--exercise", choices=["4"], help="the one file with the assignment's Exercise 4, the bonus")
    choice.add_argument("--document", choices=DOCUMENTS, help="instead a zip archive of all code of another document")
    choice.add_argument("--function", metavar="NAME", help="print this function and everything that it needs")
    choice.add_argument("--list", action="store_true", help="print the names of all functions, file by file")
    options.add_argument("--out", type=Path, metavar="FILE", help="the file (default: in submission/)")
    opts = options.parse_args()
    if opts.out and (opts.list or opts.function is not None):
        options.error(f"argument --out: not allowed with argument --{'list' if opts.list else 'function'}")
    if opts.list:
        print("\n".join(functions(read_sources(METHOD))))
    elif opts.function is not None:
        print(function(opts.function), end="")
    else:
        name, contents = "assignment3.py", [submission().encode(), submission(exercise_4()).encode()]
        if opts.document:
            name, contents = f"{opts.document}.zip", [archive(opts.document)]
        path = opts.out or HOME / "submission" / name
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file with --out, such as {path / name}")
        if path.exists() and path.read_bytes() not in contents:
            raise UserError(f"{path} is not replaced, because it has been changed; delete it, or name another file with --out")
        make_folder(path.parent)
        write(path, contents[bool(opts.exercise)])
        print(path)


if __name__ == "__main__":
    run_main(main)

"""Make the one file to hand in, or print one function with all that it needs. Nothing is trained here.

    python make_submission.py                                  # writes submission/assignment3.py
    python make_submission.py --function batch_norm_backpass   # prints it, ready to paste into a report
    python make_submission.py --list                           # the names that --function knows

A source's statements at top level are definitions: functions, classes, constants. The submission is submission_main.py and
every definition that it needs, found by the syntax trees, each with its own text, comments and equation numbers. In that
text kbn.forward becomes forward. Where two modules define the same name, or a function has a variable of that name, it
becomes module_name; kbn's names stay as they are. Every rewritten definition is parsed again, and its tree compared with
what it should be.
"""

import argparse
import ast
import builtins
import copy
import difflib
import io
import re
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

import tables

HOME = Path(__file__).resolve().parent
TEMPLATE = "submission_main"
REPLACED = "experiment", "plots"  # what TEMPLATE defines takes the place of these modules' definitions of the same names
FIRST = "kbn", TEMPLATE  # where names clash, the first of these keeps its own
ALLOWED = sys.stdlib_module_names | {"numpy", "scipy", "matplotlib"}
WIDTH = 117

# The order of the submission: module; its section, "" for what stands above the first one, None for all that is left; the
# heading, None for the section's own. What is in no part of these goes where OTHERS stands.
OTHERS = None, None, None
PARTS = [
    ("datasets", "", "the data (Exercise 1)"),
    ("datasets", "CIFAR-10", None),
    ("datasets", "official files", "CIFAR-10"),
    ("datasets", "shapes", "the synthetic set"),
    ("datasets", None, None),
    (TEMPLATE, "the data", "which data"),
    ("kbn", "", "k-layer networks with batch normalization"),
    ("kbn", "the network", None),
    ("kbn", "cost and accuracy", None),
    ("gradcheck", "", "are the gradients right? (Exercises 1 and 3)"),
    ("gradcheck", None, None),
    ("gradcheck", "the script", "the gradients of Exercises 1 and 3"),
    ("kbn", None, None),
    ("tables", None, "tables and files"),
    ("experiment", None, "what the exercises share"),
    (TEMPLATE, "the runs", None),
    OTHERS,
    ("run_ex2", None, "Exercise 2: can multi-layer networks be trained?"),
    ("run_ex3", None, "Exercise 3: batch normalization, and the search for lambda"),
    ("run_sensitivity", None, "sensitivity to initialisation"),
    ("plots", None, "figures"),
    (TEMPLATE, "the figures", "figures"),
    (TEMPLATE, None, None),
]
# Paragraphs of the modules' docstrings that stand below their first heading, by their first words.
NOTES = {
    "kbn": ["Everything that", "params ", "Everything stays"],
    "gradcheck": ["What is measured.", "Zero gradients.", "Kinks.", "Mini-batches."],
}


class SubmissionError(Exception):
    """The sources cannot be put together. One line: where, why."""


@dataclass(eq=False)
class Definition:
    """A statement at a module's top level. One without names is there for its effect, such as rcParams.update."""

    module: str
    names: list
    node: ast.stmt
    section: str
    comment: list  # the lines above it that belong to it, the blank ones between them, too
    blank: int  # blank lines above that
    lines: tuple  # (first, last), counted from 1, decorators included
    references: list = field(default_factory=list)
    imports: set = field(default_factory=set)

    def __str__(self):
        return f"{self.module}.{self.names[0]}" if self.names else f"{self.module}.py, line {self.lines[0]}"


@dataclass
class Reference:
    """Where a definition names another one: a Name or, as in kbn.forward, an Attribute."""

    node: ast.expr
    target: Definition
    name: str
    local: frozenset  # the names that are variables of the functions around it
    when: str  # "defined": needed when the statement is executed; "called": then even called; "later"


# ------------------------------------------------------------------------------------------------------- the sources


def read_sources(folder=HOME):
    """All modules of the project: {name: a dict of text, doc, definitions (in order), by_name, imports (by alias)}."""
    return {path.stem: read_source(path) for path in sorted(folder.glob("*.py")) if not path.stem.startswith("make_")}


def read_source(path):
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text, str(path)), text.split("\n")
    module = {"text": text, "doc": ast.get_docstring(tree), "definitions": [], "by_name": {}, "imports": {}, "main": None}
    end, section = 0, ""
    for statement in tree.body:
        first = min([statement.lineno, *(part.lineno for part in getattr(statement, "decorator_list", []))])
        if first <= end:
            raise SubmissionError(f"{path.name}, line {first}: two statements in one line")
        comment, end = lines[end : first - 1], statement.end_lineno
        while comment and comment[0].startswith((" ", "\t")):  # still in the body of the statement above
            line = comment.pop(0)
            if module["definitions"] and line.strip():
                above = module["definitions"][-1]
                above.lines = above.lines[0], above.lines[1] + 1
        for i, line in enumerate(comment):
            if re.match(r"# ?-{4}", line):
                section, comment = line.strip("# -"), comment[i + 1 :]
        blank = next((i for i, line in enumerate(comment) if line.strip()), len(comment))
        comment = comment[blank:]
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            module["imports"] |= imported(statement)
        elif not is_text(statement):
            names = [] if is_main(statement) else bound([statement])
            definition = Definition(path.stem, names, statement, section, comment, blank, (first, end))
            if is_main(statement):
                module["main"] = definition
                continue
            module["definitions"].append(definition)
            for name in definition.names:
                if name in module["by_name"]:
                    raise SubmissionError(f"{path.name}, line {first}: {name} is defined twice")
                module["by_name"][name] = definition
    return module


def is_text(statement):
    """Whether a statement is a string that stands alone, as a docstring does."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_main(statement):
    return isinstance(statement, ast.If) and ast.unparse(statement.test).startswith("__name__ ==")


def imported(statement):
    """{alias: what it stands for: (module, name or None, alias)} of an import statement."""
    if isinstance(statement, ast.ImportFrom):
        return {part.asname or part.name: (statement.module, part.name, part.asname or part.name) for part in statement.names}
    return {part.asname or part.name.split(".")[0]: (part.name, None, part.asname or part.name) for part in statement.names}


def bound(nodes):
    """The names that statements bind in their own scope, in order; those in functions and comprehensions are not theirs."""
    names = []

    def visit(node):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.append(node.name)
                return
            case ast.Lambda():
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                names.extend(part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr))
                return
            case ast.Name(ctx=ast.Store() | ast.Del()):
                names.append(node.id)
            case ast.Import() | ast.ImportFrom():
                names.extend(imported(node))
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                names.append(node.name)
            case ast.MatchMapping():
                names.append(node.rest)
        for part in ast.iter_child_nodes(node):
            visit(part)

    for node in nodes:
        visit(node)
    return list(dict.fromkeys(name for name in names if name))


def globals_in(statement):
    """Yield every Name or Attribute of a Name in a top-level statement that is none of a function's own variables.

    Yields (node, the node around it, names of the variables of the functions around it, when as in Reference).
    """

    def visit(node, local, when, here=frozenset(), parent=None):
        # here: names bound in the body of a class, which the functions in it do not see
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
                arguments = [argument for argument in arguments if argument]
                outside = [
                    *getattr(node, "decorator_list", []),
                    *node.args.defaults,
                    *filter(None, node.args.kw_defaults),
                    *(argument.annotation for argument in arguments if argument.annotation),
                ]
                if getattr(node, "returns", None):
                    outside.append(node.returns)
                for part in outside:
                    called = when == "defined" and part in getattr(node, "decorator_list", [])
                    yield from visit(part, local, "called" if called else when, here)
                body = node.body if isinstance(node.body, list) else [node.body]
                inner = local | {argument.arg for argument in arguments} | set(bound(body))
                for part in body:
                    yield from visit(part, inner, "later")
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                first, *others = node.generators
                yield from visit(first.iter, local, when, here)
                inner = local | set(bound([generator.target for generator in node.generators]))
                rest = [first.target, *first.ifs, *others]
                for part in [*rest, node.key, node.value] if isinstance(node, ast.DictComp) else [*rest, node.elt]:
                    yield from visit(part, inner, when, here)
            case ast.ClassDef():
                for part in [*node.decorator_list, *node.bases, *node.keywords]:
                    yield from visit(part, local, when, here)
                for part in node.body:
                    yield from visit(part, local, when, frozenset(bound(node.body)))
            case ast.Global():
                raise SubmissionError(f"line {node.lineno}: global {', '.join(node.names)} cannot be followed")
            case ast.Name():
                if node.id not in local and node.id not in here:
                    yield node, parent, local | here, when
            case _:
                called = when == "defined" and isinstance(node, ast.Call)
                for part in ast.iter_child_nodes(node):
                    yield from visit(part, local, "called" if called else when, here, node)

    yield from visit(statement, frozenset(bound([statement]) if is_main(statement) else ()), "defined")


def resolve(sources, definition, replaced=()):
    """Find what a definition refers to: its references and imports. replaced: as in closure."""
    module = sources[definition.module]
    definition.references, definition.imports = [], set()
    where = f"{definition.module}.py"
    for node, parent, local, when in globals_in(definition.node):
        target, name = None, node.id
        if name in module["by_name"]:
            target = definition.module, name
        elif name in module["imports"]:
            origin, part, _ = module["imports"][name]
            if origin not in sources:
                definition.imports.add(module["imports"][name])
                continue
            if part:
                target = origin, part
            elif isinstance(parent, ast.Attribute) and isinstance(parent.ctx, ast.Load):
                node, target = parent, (origin, parent.attr)
            else:
                raise SubmissionError(f"{where}, line {node.lineno}: the module {name} as a whole cannot be copied")
        elif hasattr(builtins, name) or name in ("__doc__", "__file__", "__name__"):
            continue
        else:
            raise SubmissionError(f"{where}, line {node.lineno}: {name} is defined nowhere")
        owner, name = dict(replaced).get(target, target)
        if name not in sources[owner]["by_name"]:
            raise SubmissionError(f"{where}, line {node.lineno}: there is no {owner}.{name}")
        definition.references.append(Reference(node, sources[owner]["by_name"][name], name, local, when))
    for node in ast.walk(definition.node):  # imports within functions
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for origin, part, alias in imported(node).values():
                if origin in sources:
                    raise SubmissionError(f"{where}, line {node.lineno}: {origin} is imported within a function")
                definition.imports.add((origin, part, None))


def closure(sources, roots, replaced=(), allowed=None):
    """All definitions that roots need, they among them. replaced {(module, name): (module, name)}: who stands in for whom.

    Raises SubmissionError where a package is needed that is not among allowed, with the way that leads there.
    """
    because, todo = dict.fromkeys(roots), list(roots)
    while todo:
        definition = todo.pop()
        resolve(sources, definition, replaced)
        for package in {origin.split(".")[0] for origin, _, _ in definition.imports}:
            if allowed and package not in allowed:
                way = [definition]
                while because[way[-1]]:
                    way.append(because[way[-1]])
                raise SubmissionError(
                    f"{package} may not be used, but {' <- '.join(map(str, way))} needs it; "
                    f"define a substitute in {TEMPLATE}.py"
                )
        found = [reference.target for reference in definition.references]
        if not todo:
            found += effects(sources, because, replaced)
        for target in dict.fromkeys(found):
            if target not in because:
                because[target] = definition
                todo.append(target)
    return list(because)


def effects(sources, chosen, replaced):
    """The statements for effect that concern chosen definitions of their module: on them, or on a package that they use."""
    found = []
    for module in {definition.module for definition in chosen}:
        ours = [definition for definition in chosen if definition.module == module]
        packages = {origin.split(".")[0] for definition in ours for origin, _, _ in definition.imports}
        for definition in sources[module]["definitions"]:
            if not definition.names and definition not in chosen:
                resolve(sources, definition, replaced)
                if packages & {origin.split(".")[0] for origin, _, _ in definition.imports} or any(
                    reference.target in ours for reference in definition.references
                ):
                    found.append(definition)
    return found


def stand_ins(sources):
    """{what of the modules REPLACED: the definition of the same name in TEMPLATE}."""
    return {
        (module, name): (TEMPLATE, name)
        for module in REPLACED
        for name in sources[TEMPLATE]["by_name"].keys() & sources[module]["by_name"].keys()
    }


# --------------------------------------------------------------------------------------------------------- the names


def name_all(chosen):
    """{(module, name): the name in the file that holds all chosen definitions}."""
    modules, captured = {}, set()
    for definition in chosen:
        for name in definition.names:
            modules.setdefault(name, []).append(definition.module)
        captured |= {
            (reference.target.module, reference.name)
            for reference in definition.references
            if reference.name in reference.local
        }
    aliases = {}
    for definition in chosen:
        for origin, part, alias in definition.imports:
            if alias and aliases.setdefault(alias, (origin, part)) != (origin, part):
                raise SubmissionError(
                    f"{alias} is imported twice, as {aliases[alias]} and, for {definition}, as {(origin, part)}"
                )
    names = {}
    for name, homes in modules.items():
        keeper = next((module for module in FIRST if module in homes), None) if len(homes) > 1 else homes[0]
        for module in homes:
            good = module == keeper and (module, name) not in captured and name not in aliases and not hasattr(builtins, name)
            prefix = REPLACED[0] if module == TEMPLATE else module  # as the drivers call it
            prefix = prefix.upper() if name.isupper() else prefix
            names[module, name] = name if good else f"{prefix}_{name}"
    if len(set(names.values())) < len(names) or aliases.keys() & set(names.values()):
        raise SubmissionError("two definitions get the same name")
    for definition in chosen:
        for reference in definition.references:
            if names[reference.target.module, reference.name] in reference.local:
                raise SubmissionError(f"{definition}: {reference.name} would be taken for a variable of the function")
    return names


def rewritten(source, definition, names):
    """The lines of a definition, with every reference and its own name as names says, and its tree as it must be then."""
    lines = source["text"].encode().split(b"\n")
    changes = {reference.node: names[reference.target.module, reference.name] for reference in definition.references}
    edits = [(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, changes[node]) for node in changes]
    if isinstance(definition.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        name, at = names[definition.module, definition.node.name], definition.node
        start = re.compile(rb"(async +)?(def|class) +").match(lines[at.lineno - 1], at.col_offset).end()
        edits.append((at.lineno, start, at.lineno, start + len(at.name.encode()), name))
    for first, start, last, end, new in edits:
        if first != last:
            raise SubmissionError(f"{definition}, line {first}: write module.name in one line")
    edits = sorted(edit for edit in edits if lines[edit[0] - 1][edit[1] : edit[3]].decode() != edit[4])
    tree = expected(definition, changes, names)
    first, last = definition.lines
    shifts = continuation_shifts(lines, first, last, edits)
    text = []
    for number in range(first, last + 1):
        line = lines[number - 1]
        for _, start, _, end, new in reversed([edit for edit in edits if edit[0] == number]):
            line = line[:start] + new.encode() + line[end:]
        shift = shifts.get(number, 0)
        text.append((line[-shift:] if shift < 0 else b" " * shift + line).decode())
    found = ast.parse("\n".join(text)).body
    if len(found) != 1 or ast.dump(found[0]) != ast.dump(tree):
        raise SubmissionError(f"{definition}: a name in it cannot be rewritten")
    return text


def expected(definition, changes, names):
    """The definition's tree after the changes {node: new name}."""
    copies = {}
    tree = copy.deepcopy(definition.node, copies)
    new_names = {id(copies[id(node)]): new for node, new in changes.items()}

    class Renamer(ast.NodeTransformer):
        def visit(self, node):
            if id(node) in new_names:
                return ast.Name(new_names[id(node)], node.ctx)
            return self.generic_visit(node)

    tree = Renamer().visit(tree)
    if hasattr(tree, "name"):
        tree.name = names[definition.module, tree.name]
    return tree


def continuation_shifts(lines, first, last, edits):
    """By how many columns each line within brackets must move to stand below its bracket again: {line number: columns}."""

    def moved(number, column):
        return shifts.get(number, 0) + sum(
            len(new) - (end - start) for line, start, _, end, new in edits if line == number and end <= column
        )

    text = b"\n".join(lines[first - 1 : last]).decode() + "\n"
    shifts, brackets, current = {}, [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        number, column = token.start[0] + first - 1, len(token.line[: token.start[1]].encode())
        if number != current and brackets and token.type != tokenize.NL:
            at, bracket = brackets[-1]
            shifts[number] = moved(at, bracket) if column > bracket else shifts.get(at, 0)
        current = token.end[0] + first - 1
        if token.type == tokenize.OP and token.string in "([{":
            brackets.append((number, column))
        elif token.type == tokenize.OP and token.string in ")]}":
            brackets.pop()
    return shifts


# --------------------------------------------------------------------------------------------------------- the order


def part_of(definition):
    """The number of the part of PARTS that a definition belongs to."""
    for section in (definition.section, None):
        for i, (module, part, _) in enumerate(PARTS):
            if module == definition.module and part == section:
                return i
    return PARTS.index(OTHERS)


def in_order(sources, chosen):
    """The chosen definitions in the order of PARTS, but none before what it needs in order to be defined."""

    def place(definition):
        if definition in placed:
            return
        placed[definition] = None
        for reference in definition.references:
            if reference.when != "later":
                place(reference.target)
                if reference.when == "called":
                    for needed in reached(reference.target):
                        place(needed)
        order.append(definition)

    def reached(definition):
        found = [definition]
        for one in found:
            found += [reference.target for reference in one.references if reference.target not in found]
        return found

    placed, order = {}, []
    for definition in sorted(chosen, key=lambda one: (part_of(one), one.module, one.lines)):
        place(definition)
    return order


def heading(definition):
    _, section, title = PARTS[part_of(definition)]
    return title or definition.section or definition.module


def rule(title):
    return f"# {'-' * (WIDTH - 3 - len(title))} {title}"


def notes(source, beginnings):
    """Those paragraphs of a module's docstring that begin with these words, as comments."""
    paragraphs = re.split(r"\n\s*\n", source["doc"])
    text = []
    for beginning in beginnings:
        chosen = [paragraph for paragraph in paragraphs if paragraph.startswith(beginning)]
        if len(chosen) != 1:
            raise SubmissionError(f"no single paragraph of a docstring begins with {beginning!r}")
        text += ["#", *(f"# {line}" for line in chosen[0].split("\n"))]
    return text[1:]


def import_lines(chosen):
    """The import statements that the chosen definitions need: the standard library, then the others."""
    found = {one for definition in chosen for one in definition.imports if one[2]}
    statements = {}
    for origin, part, alias in found:
        if part:
            statements.setdefault((origin, "from"), []).append(part if part == alias else f"{part} as {alias}")
        else:
            statements[origin, alias] = f"import {origin}" + f" as {alias}" * (alias != origin)
    lines = {True: [], False: []}
    for (origin, kind), statement in sorted(statements.items(), key=lambda item: (item[0][1] == "from", item[0])):
        text = statement if isinstance(statement, str) else f"from {origin} import {', '.join(sorted(statement))}"
        lines[origin.split(".")[0] in sys.stdlib_module_names].append(text)
    return lines[True] + [""] * (bool(lines[True]) and bool(lines[False])) + lines[False]


def together(sources, chosen, rules):
    """The lines of chosen definitions, in order, with the imports they need; rules: whether to write headings."""
    names, lines, above, noted = name_all(chosen), import_lines(chosen), None, set()
    for definition in in_order(sources, chosen):
        is_main_now = definition is sources[definition.module]["main"]
        title = None if is_main_now else heading(definition)
        text = definition.comment + rewritten(sources[definition.module], definition, names)
        if rules and title and (above is None or title != heading(above)):
            lines += ["", "", rule(title), ""]
            if definition.module in NOTES and definition.module not in noted:
                noted.add(definition.module)
                lines += [*notes(sources[definition.module], NOTES[definition.module]), ""]
        elif lines:
            large = any(isinstance(one.node, (ast.FunctionDef, ast.ClassDef)) for one in (above, definition) if one)
            neighbours = above and above.module == definition.module and above.section == definition.section
            lines += [""] * (2 if large or is_main_now else definition.blank if neighbours and definition.blank < 2 else 1)
        lines += text
        above = definition
    return lines


# ----------------------------------------------------------------------------------------------------------- the two


def submission(sources):
    """The text of the file to hand in."""
    template = sources[TEMPLATE]
    chosen = closure(sources, [template["main"]], stand_ins(sources), ALLOWED)
    code = "\n".join(together(sources, chosen, rules=True))
    text = f'"""{template["doc"]}\n"""\n{code}\n'
    compile(text, "assignment3.py", "exec")
    return text


def function(sources, name):
    """The text of one definition, called name or module.name, and of all that it needs."""
    chosen = closure(sources, [find(sources, name)])
    return "\n".join(together(sources, chosen, rules=False)) + "\n"


def find(sources, name):
    """The definition of this name; kbn's where several modules have one."""
    module, _, bare = name.rpartition(".")
    homes = [home for home in sources if bare in sources[home]["by_name"] and module in ("", home)]
    if "kbn" in homes:
        homes = ["kbn"]
    if len(homes) == 1:
        return sources[homes[0]]["by_name"][bare]
    if homes:
        raise SubmissionError(f"several modules define {name}: say {' or '.join(f'{home}.{name}' for home in homes)}")
    known = [f"{home}.{one}" if module else one for home in sources for one in sources[home]["by_name"]]
    close = difflib.get_close_matches(name, dict.fromkeys(known))
    raise SubmissionError(f"there is no {name}; " + (f"did you mean {' or '.join(close)}?" if close else "--list names all"))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--function", metavar="NAME", help="print NAME, or module.NAME, and what it needs, in place of the whole")
    what.add_argument("--list", action="store_true", help="print the names that --function knows")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=HOME / "submission",
        help="where assignment3.py is written (default: submission, beside this script)",
    )
    args = parser.parse_args(argv)
    try:
        sources = read_sources()
        if args.list:
            print("\n".join(f"{home}.{name}" for home in sources for name in sources[home]["by_name"]))
        elif args.function:
            print(function(sources, args.function), end="")
        else:
            text, path = submission(sources), args.out / "assignment3.py"
            args.out.mkdir(parents=True, exist_ok=True)
            tables.write(path, text)
            print(f"{path}: {len(text.splitlines())} lines; try it with python assignment3.py --smoke")
    except (SubmissionError, OSError) as error:
        sys.exit(f"make_submission.py: error: {error}")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    main()

"""Compare your own solution of the assignment with this one: which value is wrong first, and which mistake explains it.

    python check_mine.py --case case.npz       writes a small case: a mini-batch, a network, lambda and what else it needs
    python check_mine.py case.npz mine.npz     compares what your program made of it, and exits with 0 if all is right

Your program, in any language, reads the case and writes any of these values to a file of its own:

    P loss cost                               for the mini-batch X, Y, the largest index of the layers being k
    grad_W1 grad_b1 grad_gamma1 grad_beta1    ... up to grad_Wk, the gradients of the cost
    S1 mu1 v1 Shat1 X1                        scores W X + b; with BN their means, variances, normalised scores; the next layer's input
    W1_new b1_new gamma1_new mu1_new v1_new   after update t with the cyclical learning rate; the moving averages after the same step
    P_test y_test                             prediction for X_test after that update, and its classes

Files end in .npz, .mat (version 5) or .json. Examples in rows, vectors of any shape, 1/2 lambda in the penalty, and float32 are
recognised. docs/check-mine.md has programs in Python, MATLAB and Julia that read a case and write an answer. To check a
function of your own instead of a file, see gradcheck.check.
"""

import difflib
import sys
from collections import namedtuple

import numpy as np

from lab import cases, mistakes, settings, tables
from lab.settings import UserError

Answer = namedtuple(
    "Answer", "values notes rel absolute"
)  # values in the case's shapes; notes: what was recognised; tolerances
FLOAT64, FLOAT32 = 1e-6, 2e-3  # relative tolerances


# ------------------------------------------------------------------------------------------- reading an answer


def read_answer(path, case, right):
    """Read an answer to a case, whose right values are given. Raises UserError, naming the value, for what cannot be compared."""
    content = cases.read(path)
    if str(np.ravel(content.pop("fingerprint", case["fingerprint"]))[0]) != case["fingerprint"]:
        raise UserError(f"{path} answers another case: its fingerprint is not {case['fingerprint']}")
    for name in content:
        if name not in right and name not in case:
            near = difflib.get_close_matches(name, right, 1)
            raise UserError(f"{path}: unknown value {name!r:.40}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
    given, turned, notes = {name: content[name] for name in right if name in content}, [], []
    if not given:
        raise UserError(f"{path} holds none of the values that can be compared; see --help")
    for name in given:
        check_numbers(path, name, given[name])
    precision = tolerances(given.values())
    for name, array in given.items():
        shape, array = np.shape(right[name]), np.squeeze(array.astype(float))
        if len(shape) < 2 or 1 in shape:
            if array.size != np.prod(shape):
                raise UserError(f"{path}: {name} has {array.size} values instead of {int(np.prod(shape))}{hint(array, case)}")
            given[name] = array.reshape(shape)
        elif array.shape not in (shape, shape[::-1]):
            raise UserError(f"{path}: {name} is {array.shape} instead of {shape}, or {shape[::-1]} for examples in rows")
        else:
            turned += [array.shape != shape] * (shape[0] != shape[1])
            given[name] = array
    rows = any(turned)
    for name, array in given.items():
        if array.shape != np.shape(right[name]) or rows and array.ndim == 2 and array.shape[0] == array.shape[1]:
            given[name] = array.T
    if rows:
        notes.append("examples in rows were recognised: every array is the transpose of the assignment's")
    if "y_test" in given and np.array_equal(given["y_test"], right["y_test"] + 1):
        given["y_test"] = given["y_test"] - 1
        notes.append("labels from 1 were recognised")
    rel, absolute, words = precision
    return Answer(given, [*notes, words], rel, absolute)


def check_numbers(path, name, array):
    """Raise UserError unless an array holds real, finite numbers."""
    if array.dtype.kind not in "biuf" or not array.size:
        kind = {"c": "complex numbers", "U": "text"}.get(array.dtype.kind, "no numbers")
        raise UserError(f"{path}: {name} holds {kind}; write real numbers")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} has nan or inf in {np.count_nonzero(~np.isfinite(array))} of its {array.size} entries")


def hint(array, case):
    """What the wrong number of values of a vector suggests."""
    return "; it seems to be summed over the wrong axis" if array.size == case["X"].shape[1] else ""


def tolerances(arrays):
    """The relative and the absolute tolerance that the precision of arrays asks for, and a line that says so."""
    x = np.concatenate([np.ravel(array).astype(float) for array in arrays if array.dtype.kind == "f"] or [np.zeros(1)])
    for decimals in range(3, 9):
        if np.array_equal(np.round(x, decimals), x) and x.any():
            return FLOAT64, 0.6 * 10.0**-decimals, f"numbers of {decimals} decimals: compared to half a unit of the last one"
    if np.array_equal(x.astype(np.float32).astype(float), x) and x.any():
        return FLOAT32, 1e-7, f"float32: compared to {FLOAT32:g} of the largest entry"
    return FLOAT64, 1e-12, f"compared to {FLOAT64:g} of the largest entry"


# ------------------------------------------------------------------------------------------------- comparing


def error(a, b, answer):
    """The largest difference of a and b relative to the largest entry of b, as text; "zero" if both are."""
    if max(np.abs(a).max(), np.abs(b).max()) <= answer.absolute:
        return "zero"
    return f"{np.abs(a - b).max() / max(np.abs(b).max(), 1e-300):.1e}"


def agree(a, b, answer):
    """Whether a and b agree within the tolerances of an answer. Numbers that are not finite agree with nothing."""
    return bool(np.abs(a - b).max() <= answer.rel * np.abs(b).max() + answer.absolute)


def wrong(values, answer):
    """The names of the given values that differ from values, in the order of the computation."""
    return [name for name, given in answer.values.items() if not agree(given, values[name], answer)]


def conventions(case, answer):
    """Yield the ways to read an answer: what each assumes in words, the case, and the answer, the assignment's own way first."""
    half = case | {"lambda": case["lambda"] / 2}
    known = "cost" in answer.values
    words = (
        "the penalty 1/2 lambda ||W||^2 was recognised"
        if known
        else (
            "the gradients are right if your penalty is 1/2 lambda ||W||^2; if it is lambda ||W||^2, they have lambda for 2 lambda, (22)"
        )
    )
    yield [], case, answer
    yield [words], half, answer
    if known and ("loss" not in answer.values or agree(answer.values["cost"], answer.values["loss"], answer)):
        rest = answer._replace(values={name: array for name, array in answer.values.items() if name != "cost"})
        if agree(answer.values["cost"], mistakes.values(case)["loss"], answer):
            note = "the cost is the loss without the penalty"
            yield [note], case, rest
            yield [note, "the gradients' penalty is 1/2 lambda ||W||^2"], half, rest


@np.errstate(all="ignore")
def explain(case, answer):
    """Return the mistakes that explain all given values: (notes of conventions, [names]), a list of more than one name for pairs.

    All single mistakes that do are returned, under the first convention under which there are some; if there are none, the
    first pair that is found; else nothing.
    """
    for notes, own, given in conventions(case, answer):
        found = [(notes, [name]) for name, values in traces(own).items() if not wrong(values, given)]
        if found:
            return found
    known, first = traces(case), wrong(mistakes.values(case), answer)[0]
    for name in [name for name, values in known.items() if agree(answer.values[first], values[first], answer)]:
        for other in known:
            values = values_of(case, mistakes.CATALOGUE[name], mistakes.CATALOGUE[other]) if other != name else None
            if values and not wrong(values, answer):
                return [([], [name, other])]
    return []


def traces(case):
    """{name: values} of all mistakes that can be made in a case."""
    found = {name: values_of(case, mistake) for name, mistake in mistakes.CATALOGUE.items()}
    return {name: values for name, values in found.items() if values}


def values_of(case, *chosen):
    """The values of a case with mistakes, or None if they cannot be made in it, or not together."""
    try:
        return mistakes.values(case, *chosen)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def telling(case, answer, names):
    """The first value that is not given and differs between mistakes, or None."""
    known = traces(case)
    for name in known[names[0]]:
        if name not in answer.values and not all(
            agree(known[names[0]][name], known[other][name], answer) for other in names[1:]
        ):
            return name
    return None


# ------------------------------------------------------------------------------------------------------ printing


def equation(name, case):
    """The equation that makes a value."""
    base = name.rstrip("0123456789") if name[-1].isdigit() else "".join(letter for letter in name if not letter.isdigit())
    return cases.EQUATIONS[base][case["bn"] == "off"]


def print_table(case, answer, right):
    """Print each value in the order of the computation: right, wrong or not given."""
    bad = set(wrong(right, answer))
    lines = [
        {
            "value": name,
            "equation": equation(name, case),
            "yours": "not given" if name not in answer.values else "WRONG" if name in bad else "right",
            "relative error": error(answer.values[name], right[name], answer) if name in answer.values else "",
        }
        for name in right
    ]
    print(tables.markdown(lines))


def print_explanations(case, answer, found):
    """Print the mistakes that explain an answer, with the lines of the method."""
    for notes, names in found:
        for note in notes:
            print(f"Note: {note}.")
        print(
            "Two mistakes together explain all that was given:"
            if len(names) > 1
            else "The mistake that explains all that was given:"
            if len(found) == 1
            else "This mistake explains all that was given:"
        )
        for name in names:
            mistake = mistakes.CATALOGUE[name]
            print(f"  {name}: {mistake['says']}." + (f" Seen in: {mistake['seen']}." if mistake["seen"] else ""))
            for function, line, _ in mistake["changes"]:
                print(f"    the method has, {mistakes.place(function, line)}:  {mistakes.whole_line(function, line)}")
    if len(found) > 1:
        name = telling(case, answer, [names[0] for _, names in found])
        print(f"To tell them apart, write {name} as well." if name else "No value of this case tells them apart.")


def compare(case, answer):
    """Print what is right and what is wrong in an answer. Returns the exit status, 0 if all is right."""
    for notes, own, given in conventions(case, answer):
        if not wrong(mistakes.values(own), given):
            for note in [*answer.notes, *notes]:
                print(f"Note: {note}.")
            print(f"All {len(answer.values)} values that you gave are right.")
            return 0
    right = mistakes.values(case)
    for note in answer.notes:
        print(f"Note: {note}.")
    print_table(case, answer, right)
    first = wrong(right, answer)[0]
    print(f"The first wrong value is {first}, equation {equation(first, case)}.\n")
    found = explain(case, answer)
    if found:
        print_explanations(case, answer, found)
    else:
        print(
            "No mistake that check_mine.py knows, and no two of them, explain all that you gave. Write more of the values before "
            f"{first}, to see where it begins."
        )
    return 1


def main(argv=None):
    parser = settings.parser(__doc__)
    add = parser.add_argument
    add("files", metavar="FILE", nargs="*", help="the case and your answer to it")
    add("--case", metavar="FILE", help="write a case to FILE")
    add("--hidden", type=settings.at_least_one, nargs="+", default=[6, 5], metavar="M", help="hidden widths of the case (6 5)")
    add("--bn", choices=["off", "before", "after"], default="before", help="place of BN, relative to the ReLU (before)")
    add("--n", type=settings.at_least_one, default=8, metavar="N", help="examples in the case's mini-batch, at least 5 (8)")
    add("--seed", type=int, default=0, help="of the case (0)")
    opts = parser.parse_args(argv)
    if bool(opts.case) == bool(opts.files) or opts.files and len(opts.files) != 2:
        parser.error("either --case FILE, or the files of a case and of an answer")
    if opts.n < 5:
        parser.error(f"argument --n: {opts.n} is below 5; BN hides mistakes in smaller mini-batches")
    try:
        if opts.case:
            cases.write(opts.case, cases.draw(opts.hidden, opts.bn, opts.n, opts.seed, mistakes.shown))
            print(f"{opts.case} is written; python check_mine.py {opts.case} MINE compares your answer with it")
            return 0
        case = cases.read_case(opts.files[0])
        return compare(case, read_answer(opts.files[1], case, mistakes.values(case)))
    except UserError as error:
        print(f"check_mine.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    settings.run_main(main)

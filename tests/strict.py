"""An array that behaves as CuPy's does where that is stricter than numpy: it shows what would fail on a GPU."""

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

# numpy's functions that the stand-in takes over, and the keywords that CuPy has for them
KEYWORDS = {
    np.asarray: {"dtype", "order"}, np.arange: {"dtype"}, np.stack: {"axis"}, np.take: {"axis"}, np.flatnonzero: set(), np.moveaxis: set(),
    np.ones_like: {"dtype", "shape"}, np.result_type: set(), np.lib.stride_tricks.sliding_window_view: {"axis", "writeable"},
    **dict.fromkeys((np.empty_like, np.zeros_like, np.full_like), {"dtype", "order", "shape"}),
}  # fmt: skip
UFUNC_KEYWORDS = {"out", "dtype", "axis", "keepdims"}


def unwrap(value):
    """Return the numpy array inside; raise TypeError for a plain array of one or more dimensions."""
    if isinstance(value, Strict):
        return value.array
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"a plain numpy array {value.shape} meets a strict one")
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(item) for item in value)
    return value


def wrap(value):
    """Return arrays, 0-dimensional ones included, as Strict: CuPy's reductions stay on the device."""
    return Strict(value) if isinstance(value, (np.ndarray, np.generic)) else value


class Strict(NDArrayOperatorsMixin):
    """It wraps a numpy array. reads counts the transfers back to Python, of all such arrays."""

    reads = 0

    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, *args, **options):
        raise TypeError("an implicit conversion to numpy")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if not options.keys() <= UFUNC_KEYWORDS:
            raise TypeError(f"{ufunc.__name__} has no {options.keys() - UFUNC_KEYWORDS} in CuPy")
        result = getattr(ufunc, method)(*map(unwrap, inputs), **{name: unwrap(value) for name, value in options.items()})
        return options["out"][0] if "out" in options else wrap(result)

    def __array_function__(self, function, types, args, options):
        if not options.keys() <= KEYWORDS[function]:
            raise TypeError(f"{function.__name__} has no {options.keys() - KEYWORDS[function]} in CuPy")
        if function in (np.asarray, np.arange):  # called with like=: the one way from numpy into the library
            return Strict(function(*args, **options))
        return wrap(function(*map(unwrap, args), **{name: unwrap(value) for name, value in options.items()}))

    def read(self):
        """Return the array for a conversion to Python, and count it."""
        Strict.reads += 1
        return self.array

    def __bool__(self):
        return bool(self.read())

    def __float__(self):
        return float(self.read())

    def __format__(self, spec):
        return format(self.read(), spec)

    def tolist(self):
        return self.read().tolist()

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return wrap(self.array[unwrap(index)])

    def __setitem__(self, index, value):
        self.array[unwrap(index)] = unwrap(value)

    T = property(lambda self: Strict(self.array.T))
    shape, ndim, size, dtype, flags = (
        property(lambda self, name=name: getattr(self.array, name)) for name in ("shape", "ndim", "size", "dtype", "flags")
    )


def method(name):
    """Return a method that does what numpy's of this name does."""

    def call(self, *args, **options):
        return wrap(getattr(self.array, name)(*map(unwrap, args), **options))

    return call


for name in ("sum", "max", "min", "all", "any", "argmax", "astype", "copy", "ravel", "reshape", "transpose"):
    setattr(Strict, name, method(name))

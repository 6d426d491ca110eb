"""predict.py and lab/models.py: an image reaches a saved network as in training, and an unusable file gives one line."""

import io
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kbn
import nets
import predict
from lab import models, settings

SHAPE = 3, 28, 32
SPECS = [["conv", 2, 4, 2], ["relu"], ["bn"], ["affine", 4]]
CLASSES = ["red", "green", "blue", "grey"]
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (28, 32, 4), np.uint8)


def network(specs=None, bn="after", dtype=np.float32):
    """The arguments of models.save for a network with random statistics of BN."""
    uniform = np.random.default_rng(1).uniform
    mean, sd = (uniform(50, 100, (2688, 1)).astype(dtype) for _ in range(2))
    if specs:
        params = nets.init_params(specs, SHAPE, RNG, dtype=dtype)
    else:
        params = kbn.init_params([2688, 7, 4], RNG, bn=bn, dtype=dtype)
    stats = {name: uniform(1, 2, params["gamma1"].shape).astype(dtype) for name in ("mu1", "v1")} if bn != "off" else {}
    more = {"mean": mean, "sd": sd, "classes": CLASSES, "shape": SHAPE, "specs": specs}
    return {"params": params, "stats": stats, "hp": {"eps": 0.5, "bn": bn}} | more


@pytest.fixture
def model(tmp_path):
    """The file of a network; beside it is an image that it can predict, a.png."""
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    models.save(tmp_path / "net.npz", **network())
    return tmp_path / "net.npz"


@pytest.fixture
def read(tmp_path):
    """Write a Pillow image to a file and read it by predict.read_image. Returns integers (c, h, w)."""

    def read(image, name="a.png", shape=SHAPE, **options):
        image.save(tmp_path / name, **options)
        return predict.read_image(tmp_path / name, shape).reshape(shape).astype(int)

    return read


def run(*words, **options):
    """Run predict.py as a script."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "timeout": 60} | options
    return subprocess.run([sys.executable, predict.__file__, *map(str, words)], **options)


# ------------------------------------------------------------------------------------------------------------- images


def on_white(mode):
    """A noisy image of a mode, and its colours composited on white."""
    image = Image.fromarray(NOISE).convert("RGB").quantize(50) if mode == "P" else Image.fromarray(NOISE).convert(mode)
    rgb, alpha = np.asarray(image.convert("RGB"), float), np.ones((28, 32, 1))
    if mode == "CMYK":
        rgb = (255.0 - np.asarray(image)[:, :, :3]) * (1 - np.asarray(image)[:, :, 3:] / 255)
    if mode in ("RGBA", "LA"):
        alpha = np.asarray(image)[:, :, -1:] / 255
    return image, (rgb * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)


WIDE = Image.fromarray(RNG.integers(0, 2**16, (28, 32), np.uint16))
BOARD = Image.fromarray((np.indices((280, 320)).sum(axis=0) % 2 * 255).astype(np.uint8))
FIRST, SECOND = (Image.new("RGB", (40, 40), colour) for colour in ((250, 10, 20), (10, 250, 20)))
PALETTE = Image.new("P", (32, 28), 0)  # its entry 0 is transparent
PALETTE.putpalette([10, 20, 30, 40, 50, 60])
PALETTE.paste(1, (0, 0, 32, 16))
ENTRIES = np.where(np.arange(28)[:, None] < 16, [[[40]], [[50]], [[60]]], 255)
DAMAGED_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x0f\x01\x02\0\xff\0\0\0\xff\0\0\0"
IMAGES = {  # image, what its pixels must be, the tolerance, options of Image.save
    **{f"{mode}.tif": (*on_white(mode), 2, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")},
    **{f"16 bits.{suffix}": (WIDE, np.asarray(WIDE) / 257, 1, {}) for suffix in ("png", "tif", "pgm")},
    **{f"transparent entry.{suffix}": (PALETTE, ENTRIES, 0, {"transparency": 0}) for suffix in ("png", "gif")},
    **{f"board of {mode}.png": (BOARD.convert(mode), 127, 3, {}) for mode in ("L", "P")},  # resized smoothly
    **{f"animation.{suffix}": (FIRST, [[[250]], [[10]], [[20]]], 8, {"save_all": True, "append_images": [SECOND]})
       for suffix in ("gif", "png", "webp")},
    "damaged exif.jpg": (Image.new("L", (32, 28), 99), 99, 3, {"exif": DAMAGED_EXIF}),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", IMAGES)
def test_image_of_any_kind_gives_its_pixels_on_white(name, read):
    image, pixels, tolerance, options = IMAGES[name]
    np.testing.assert_allclose(read(image, name, **options), np.broadcast_to(pixels, SHAPE), atol=tolerance)


def test_colour_image_for_a_grey_network_gives_luminance(read):
    grey = read(Image.fromarray(NOISE[:, :, :3]), shape=(1, 28, 32))
    np.testing.assert_allclose(grey[0], NOISE[:, :, :3] @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("pixel", [np.float32(0), np.int32(-1), np.int32(2**16)])
def test_grey_image_without_a_known_scale_is_refused(pixel, read):
    with pytest.raises(ValueError, match="a.tif cannot be read .*8 or 16 bits"):
        read(Image.fromarray(np.full((4, 4), pixel)), "a.tif")


def test_edge_of_a_transparent_area_is_not_darkened(read):
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (30, 30, 75, 75))
    red, green, _ = read(image)
    assert red.min() >= 254 and green[14, 16] == 0 and green[0, 0] == 255


def test_image_of_other_proportions_is_squeezed_and_not_cropped(read):
    wide = Image.new("RGB", (256, 28), "blue")
    wide.paste("red", (0, 0, 64, 28))
    red, _, _ = read(wide)
    assert (red[:, :7] > 230).all() and (red[:, 9:] < 25).all()


@pytest.mark.parametrize("orientation, turn", [(2, Image.FLIP_LEFT_RIGHT), (3, Image.ROTATE_180), (6, Image.ROTATE_90)])
def test_photograph_is_rotated_by_its_exif_orientation(orientation, turn, read):
    upright, exif = Image.new("RGB", (64, 56), "white"), Image.Exif()
    upright.paste("red", (0, 0, 32, 28))
    exif[0x0112] = orientation
    _, green, _ = read(upright.transpose(turn), "a.jpg", exif=exif, quality=95, subsampling=0)
    assert (green[:13, :15] < 10).all() and (green[15:] > 245).all() and (green[:, 17:] > 245).all()


# --------------------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize("specs, bn", [(None, "off"), (None, "before"), (None, "after"), (SPECS, "after")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saved_network_predicts_exactly_what_the_trained_one_does(specs, bn, dtype, tmp_path):
    given, pixels = network(specs, bn, dtype), RNG.integers(0, 256, (2688, 5), np.uint8)
    models.save(tmp_path / "net.npz", **given)
    P = predict.predict(models.load(tmp_path / "net.npz"), pixels)
    net, bn = (nets.build(specs, SHAPE), "before") if specs else (kbn.MLP, bn)
    X = ((pixels - given["mean"]) / given["sd"]).astype(dtype)
    np.testing.assert_array_equal(P, net.forward(X, given["params"], given["stats"], bn=bn, eps=0.5)[0], strict=True)


def test_pixels_of_another_shape_are_refused(model):
    for shape in [(300, 1), (1, 2688), (2688,), SHAPE]:
        with pytest.raises(ValueError, match=r"must be \(2688, n\)"):
            predict.predict(models.load(model), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("top, n", [([], 3), (["--top", "1"], 1), (["--top", "99"], 4)])
def test_top_gives_the_number_of_classes_in_order_of_probability(top, n, model, capsys):
    path = model.with_name("a.png")
    assert predict.main([str(model), str(path), *top]) == 0
    p = predict.predict(models.load(model), predict.read_image(path, SHAPE))[:, 0]
    said = re.findall(r"(\w+) +([\d.]+) %", capsys.readouterr().out)
    assert said == [(CLASSES[i], f"{100 * p[i]:.1f}") for i in np.argsort(-p)[:n]]


def test_mean_prediction_of_several_networks_and_not_of_other_classes(model, capsys):
    other, third = network(bn="before"), network() | {"classes": CLASSES[::-1]}
    for name, arrays in (("other", other), ("third", third)):
        models.save(model.with_name(f"{name}.npz"), **arrays)
    image = str(model.with_name("a.png"))
    assert predict.main([str(model), image, "--top", "9", "--with", str(model.with_name("other.npz"))]) == 0
    P = [
        predict.predict(network, predict.read_image(image, SHAPE))
        for network in map(models.load, (model, model.with_name("other.npz")))
    ]
    p = (P[0] + P[1])[:, 0] / 2
    shown = capsys.readouterr().out.split(": ")[1].split()
    assert dict(zip(shown[::3], map(float, shown[1::3]))) == {name: round(100 * x, 1) for name, x in zip(CLASSES, p.tolist())}
    with pytest.raises(
        settings.UserError, match="third.npz has the classes grey, blue, green, red, and .*net.npz has red, green"
    ):
        predict.main([str(model), image, "--with", str(model.with_name("third.npz"))])


@pytest.mark.parametrize("words, said", [("n a --top 0", "'0'"), ("n a --to 2", "--to"), ("n", "IMAGE"), ("", "MODEL")])
def test_wrong_option_is_named_with_status_2(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main(words.split())
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("encoding, name", [("utf-8", "blå"), ("ascii", r"bl\xe5")])
def test_script_prints_letters_that_the_terminal_lacks(encoding, name, model):
    models.save(model, **network() | {"classes": ["blå"] * 4})
    job = run("net.npz", "a.png", "no.png", cwd=model.parent, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert job.stdout.startswith(f"a.png:  {name} ") and job.stdout.count(" %") == 3 and job.returncode == 1
    assert job.stderr == "predict.py: error: no.png cannot be read (No such file or directory)\n"


def test_control_characters_of_class_names_are_not_printed(model, capsys):
    models.save(model, **network() | {"classes": ["\x1b[31mred\x07", "a\nb", "\u202e", "\x9b"]})
    predict.main([str(model), str(model.with_name("a.png")), "--top", "4"])
    line, end = capsys.readouterr().out.split("\n")
    assert "?[31mred?" in line and line.isprintable() and end == ""


def test_closed_pipe_ends_the_script_silently(model):
    reader, writer = os.pipe()
    os.close(reader)
    job = run(model, *[model.with_name("a.png")] * 3, stdout=writer)
    os.close(writer)
    assert job.stderr == "" and job.returncode == 1


def test_scores_that_overflow_are_not_printed_as_probabilities(model, capsys):
    models.save(model, **network() | {"sd": np.full((2688, 1), 1e-38)})
    assert predict.main([str(model), str(model.with_name("a.png"))]) == 1
    assert capsys.readouterr() == ("", "predict.py: error: the network's scores are not finite\n")


def spoil(path, change=lambda whole: whole[:500], **options):
    """Write an image file with changed bytes."""
    Image.fromarray(NOISE[:, :, 0]).save(path, **options)
    path.write_bytes(change(path.read_bytes()))


def scratch(whole):
    """Overwrite a hundred bytes; libtiff prints a line for each of them that is no code."""
    return whole[:500] + 100 * b"\xff" + whole[600:]


BROKEN = {f"cut.{suffix}": (spoil, "is not an image|cannot be read") for suffix in ("png", "jpg", "bmp", "gif", "tif")} | {
    "lzw.tif": (lambda path: spoil(path, scratch, compression="tiff_lzw"), "cannot be read"),
    "folder.png": (Path.mkdir, "not a regular file"),
    "fifo.png": (os.mkfifo, "not a regular file"),
    "text.png": (lambda path: path.write_text("hello"), "is not an image that Pillow can read"),
    "large.png": (lambda path: Image.new("1", (9500, 9500)).save(path), "exceeds limit"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_image_gives_one_line_and_the_others_are_predicted(name, model, capfd):
    make, said = BROKEN[name]
    make(model.with_name(name))
    assert predict.main([str(model), *(str(model.with_name(image)) for image in ("a.png", name, "a.png"))]) == 1
    out, err = capfd.readouterr()
    assert [Path(line.split(": ")[0]).name for line in out.splitlines()] == ["a.png", "a.png"]
    assert re.fullmatch(f"predict.py: error: {model.with_name(name)} .*({said}).*\n", err)


# ------------------------------------------------------------------------------------------------------------- models


def refusal(path):
    """The message with which models.load refuses a file, which must be one short line that predict.py passes on."""
    with pytest.raises(ValueError) as refused:
        models.load(path)
    with pytest.raises(settings.UserError, match=re.escape(str(refused.value))):
        predict.main([str(path), "no image"])
    assert re.fullmatch(f"{path} .{{1,300}}", str(refused.value))
    return str(refused.value)


UNFIT = {  # what is written into the file of a network, by group and name (None: left out)
    "the 3 classes do not fit": {"words": {"classes": CLASSES[:3]}},
    "classes are not a list of names": {"words": {"classes": [1, 2, 3, 4]}},
    "W1 must be (7, 2604) finite floats, not (7, 2688) float32": {"words": {"shape": [3, 28, 31]}},
    "not [28, 32, 3]": {"words": {"shape": [28, 32, 3]}},
    "[3, -28, -32]": {"words": {"shape": [3, -28, -32]}},
    "not [3, 28.0, 32]": {"words": {"shape": [3, 28.0, 32]}},
    "W1 must be (2, 3, 4, 4)": {"words": {"specs": SPECS}},
    "there is no layer ['hash']": {"words": {"specs": [["hash"]]}},
    "more than 1000 layers": {"words": {"specs": [["relu"]] * 1000 + [["affine", 4]]}},
    "one example has": {"words": {"specs": [["avg_pool", 1, 1, 500], ["relu"], ["affine", 4]]}},
    "loss must be": {"words": {"specs": [["affine", 4]], "loss": "hinge"}},
    "'epsilon'": {"words": {"hp": {"epsilon": 1}}},
    "bn is 'off'": {"words": {"hp": {"bn": "off"}}},
    "is not a network for images": {"words": {"hp": {"eta_max": 10**400}}},
    "'b2' is missing": {"params": {"b2": None}},
    "'b1' is missing": {"params": {"b1": None}},
    "'W9' is unknown": {"params": {"W9": np.ones((4, 4))}},
    "W1 must be (7, 2688)": {"params": {"W1": np.ones((7, 2687))}},
    "b1 must be (7, 1)": {"params": {"b1": np.ones(7)}},
    "b2 must be (4, 1) finite": {"params": {"b2": np.full((4, 1), np.nan)}},
    "not (4, 1) int64": {"params": {"b2": np.ones((4, 1), np.int64)}},
    "'mu1' is unknown": {"params": {"mu1": np.ones((7, 1))}, "stats": {"mu1": None}},
    "v1 has a value of -1.0": {"stats": {"v1": np.full((7, 1), -1.0)}},
    "mean must be (2688, 1)": {"pixels": {"mean": np.zeros((3071, 1))}},
    "not (2688, 1) <U1": {"pixels": {"mean": np.full((2688, 1), "1")}},
    "sd has a value of 0.0": {"pixels": {"sd": np.zeros((2688, 1))}},
    "KeyError: 'other'": {"other": {"mean": np.zeros(1)}},
}


@pytest.mark.parametrize("said", UNFIT)
def test_network_whose_parts_do_not_fit_is_refused(said, model):
    words, groups = models.unpack(model, "params", "stats", "pixels")
    for group, changes in UNFIT[said].items():
        if group == "words":
            words |= changes
        else:
            arrays = groups.get(group, {}) | changes
            groups[group] = {name: array for name, array in arrays.items() if array is not None}
    model.write_bytes(models.pack(words, **groups))
    assert said in refusal(model)


class Evil:
    """An object whose unpickling makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def npz(array, save=np.savez, words="{}"):
    """The bytes of an archive with this array as W1."""
    file = io.BytesIO()
    save(file, **{"words": np.array(words), "params.W1": array})
    return file.getvalue()


def overwritten(whole, part, offset, new):
    """A copy of these bytes with new ones, offset bytes after the last place of part."""
    at = whole.rindex(part) + offset
    return whole[:at] + new + whole[at + len(new) :]


DAMAGE = {  # how the bytes of a model are changed, and what is said
    "empty": (lambda whole: b"", "not a zip file"),
    "without its end": (lambda whole: whole[:-100], "not a zip file"),
    "one byte": (lambda whole: overwritten(whole, b"(7, 2688), }", 5000, b"?"), "Bad CRC-32"),
    "other words": (lambda whole: npz(np.ones(2)), "'hp'"),
    "nested words": (lambda whole: npz(np.ones(2), words="[" * 100_000), "RecursionError"),
    "pickle": (lambda whole: npz(np.array(Evil(), dtype=object)), "not plain"),
    "structure": (lambda whole: npz(np.zeros(1, [("a", "f4")])), "not plain"),
    "long header": (lambda whole: npz(np.zeros(1, [(f"field {i}", "f4") for i in range(2000)])), "Header info length"),
    "compressed": (lambda whole: npz(np.zeros(7_000_000), np.savez_compressed), "compressed"),
    "large header": (lambda whole: overwritten(whole, b"(7, 2688), }", 8, b"000000000), }"), "the size that it claims"),
    "large directory": (lambda whole: overwritten(whole, b"PK\1\2", 24, b"\xff\xff\xff\x7f"), "larger than 200000000 bytes"),
    "many arrays": (lambda whole: b"PK\1\2" * 10_001, "more than 10000 arrays"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model_is_refused_and_takes_no_memory(damage, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, said = DAMAGE[damage]
    content = change(model.read_bytes())
    model.write_bytes(content)
    tracemalloc.start()
    assert said in refusal(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(content) + 3_000_000 and not Path("ran").exists()


def test_archive_returns_what_was_packed(tmp_path):
    words = {"rng": np.random.default_rng(0).bit_generator.state, "ä": None}
    arrays = {"W1": np.arange(6.0).reshape(2, 3).T, "b1": np.zeros((0, 1), np.float32), "t": np.array(["ä", "bc"])}
    (tmp_path / "a.npz").write_bytes(models.pack(words, params=arrays, stats={}))
    read, groups = models.unpack(tmp_path / "a.npz", "params", "stats", "memory")
    assert read == words and groups == {"params": groups["params"], "stats": {}, "memory": {}}
    for name, array in arrays.items():
        np.testing.assert_array_equal(groups["params"][name], array, strict=True)
        groups["params"].pop(name)[:] = array  # it is writeable
    assert not groups["params"]
    with pytest.raises(ValueError, match="a.npz has more than 1000 bytes"):
        models.unpack(tmp_path / "a.npz", "params", limit=1000)


@pytest.mark.parametrize(
    "name, said", [("folder", "not a regular file"), ("fifo", "not a regular file"), ("no", "name a network")]
)
def test_model_that_is_not_a_file_is_refused_at_once(name, said, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    job = run(tmp_path / name, "a.png")
    assert (job.returncode, job.stdout) == (1, "") and re.fullmatch(f"predict.py: error: .*{said}.*\n", job.stderr)

"""predict.py: the pixels a network is given are those it was trained on, and what cannot be used is said in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets
import kbn
import predict

COLOURS = ["red", "green", "blue"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw(rng, shape=(3, 32, 32), K=4, dtype=np.float32):
    """A network with BN, drawn at random: what kbn.save takes of it, less the path, by name."""
    d = int(np.prod(shape))
    params = kbn.init_params([d, 7, K], rng, batch_norm=True, dtype=dtype)
    stats = {"mu1": rng.standard_normal((7, 1)).astype(dtype), "v1": 1 + rng.random((7, 1)).astype(dtype)}
    return {
        "params": params,
        "stats": stats,
        "hp": {"eps": 1e-3},
        "mean": rng.uniform(90, 150, (d, 1)).astype(dtype),
        "sd": rng.uniform(40, 80, (d, 1)).astype(dtype),
        "classes": np.array([f"class {i}" for i in range(K)]),
        "shape": np.array(shape),
    }


def colour_sums(shape, classes):
    """A network without hidden layers whose classes are the sums of the planes, 255 at a corner of the cube counting 1."""
    c, d = shape[0], int(np.prod(shape))
    W = np.kron(np.eye(c), np.ones((1, d // c))) * c / d * 20
    return {
        "params": {"W1": W, "b1": np.zeros((c, 1))},
        "stats": {},
        "hp": {},
        "mean": np.zeros((d, 1)),
        "sd": np.full((d, 1), 255.0),
        "classes": np.array(classes),
        "shape": np.array(shape),
    }


def planes(image):
    """The pixels of a Pillow image, three planes one after another, as a column."""
    return np.concatenate([np.asarray(plane).ravel() for plane in image.convert("RGB").split()])[:, None]


def noise(rng, mode="RGB", size=(32, 32)):
    """An image of random pixels; size is width, height."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.merge(mode, [Image.fromarray(rng.integers(0, 256, size[::-1], np.uint8)) for _ in range(bands)])


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def model(rng, tmp_path):
    """The file of a network for 3 x 32 x 32."""
    kbn.save(tmp_path / "net.npz", **draw(rng))
    return tmp_path / "net.npz"


@pytest.fixture
def call(capsys):
    """Call main as the command line does. Returns the exit status and the lines of stdout and of stderr."""

    def call(*words):
        status = predict.main([str(word) for word in words])
        output = capsys.readouterr()
        return status, output.out.splitlines(), output.err.splitlines()

    return call


# ------------------------------------------------------------------------------------------------- the way of a pixel


def test_an_image_of_the_dataset_as_a_file_is_predicted_as_in_training(rng, tmp_path, call):
    images, labels = datasets.draw_shapes(260, rng)
    raw = {
        "title": "few",
        "images": images[:240],
        "labels": labels[:240],
        "test_images": images[240:],
        "test_labels": labels[240:],
    }
    data, (classes, shape) = datasets.split(raw, 200, 40), datasets.DATASETS["shapes"][1:3]
    params = kbn.init_params([3072, 20, 10], rng, batch_norm=True)
    params, stats, _ = kbn.minibatch_gd(data["train"], data["val"], params, {"n_batch": 20, "n_s": 50, "n_cycles": 1}, rng)
    kbn.save(tmp_path / "net.npz", params, stats, {}, mean=data["mean"], sd=data["sd"], classes=classes, shape=shape)
    P, _ = kbn.forward(data["test"][0], params, stats)

    net, files = predict.load_model(tmp_path / "net.npz"), []
    for i, image in enumerate(raw["test_images"]):
        picture = Image.fromarray(image.reshape(3, 32, 32).transpose(1, 2, 0))
        files.append(saved(picture, tmp_path / f"{i}.png"))
        pixels = predict.read_image(files[-1], shape)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, image[:, None])
        np.testing.assert_allclose(predict.predict(net, pixels), P[:, [i]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(predict.predict(net, raw["test_images"].T), P, rtol=0, atol=1e-6)

    status, out, err = call(tmp_path / "net.npz", *files)
    assert (status, err, len(out)) == (0, [], 20)
    for path, line, p in zip(files, out, P.T):
        best = np.argsort(p)[::-1][:3]
        said = re.findall(r"(\S.*?) +([\d.]+) %", line.removeprefix(f"{path}:"))
        assert [name.strip() for name, _ in said] == [classes[i] for i in best]
        np.testing.assert_allclose([float(percent) for _, percent in said], 100 * p[best], atol=0.051)
    assert len({line.index(" %") for line in out}) == 1


@pytest.mark.parametrize("colour", COLOURS)
def test_planes_stand_in_the_order_red_green_blue(colour, tmp_path, call):
    kbn.save(tmp_path / "net.npz", **colour_sums((3, 8, 8), COLOURS))
    code = {"red": "#ff0000", "green": "#00ff00", "blue": "#0000ff"}[colour]
    path = saved(Image.new("RGB", (50, 40), code), tmp_path / "a.png")
    status, out, err = call(tmp_path / "net.npz", path, "--top", 1)
    assert (status, [" ".join(line.split()) for line in out], err) == (0, [f"{path}: {colour} 100.0 %"], [])


def test_height_and_width_are_not_confused(rng, tmp_path):
    picture = noise(rng, size=(6, 4))
    pixels = predict.read_image(saved(picture, tmp_path / "a.png"), (3, 4, 6))
    np.testing.assert_array_equal(pixels, planes(picture))
    np.testing.assert_array_equal(pixels.reshape(3, 4, 6)[1], np.asarray(picture)[:, :, 1])


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (32, 32), (1000, 3), (257, 640)])
def test_an_image_of_one_colour_is_the_same_in_every_size(size, model, tmp_path):
    net = predict.load_model(model)
    small, other = (
        predict.read_image(saved(Image.new("RGB", wh, (201, 7, 90)), tmp_path / "a.png"), (3, 32, 32))
        for wh in [(32, 32), size]
    )
    assert (small == np.repeat([201, 7, 90], 1024)[:, None]).all()
    np.testing.assert_array_equal(other, small)
    np.testing.assert_array_equal(predict.predict(net, other), predict.predict(net, small))


def test_resizing_is_smooth(tmp_path):
    fine = Image.fromarray((np.indices((320, 320)).sum(axis=0) % 2 * 255).astype(np.uint8))
    pixels = predict.read_image(saved(fine, tmp_path / "a.png"), (3, 32, 32))
    assert abs(pixels.astype(int) - 127).max() <= 3


def test_nothing_is_cropped(tmp_path):
    wide = Image.new("RGB", (256, 32), "blue")
    wide.paste("red", (0, 0, 64, 32))
    red = predict.read_image(saved(wide, tmp_path / "a.png"), (3, 32, 32)).reshape(3, 32, 32)[0]
    assert (red[:, :7] > 230).all() and (red[:, 9:] < 25).all()


# ------------------------------------------------------------------------------------------------------ modes and files


def test_grey_images_and_grey_networks(rng, tmp_path, call):
    grey, colour = noise(rng, "L"), noise(rng)
    g, c = np.asarray(grey).reshape(-1, 1), np.asarray(colour)
    grey_file, colour_file = saved(grey, tmp_path / "grey.png"), saved(colour, tmp_path / "colour.png")
    np.testing.assert_array_equal(predict.read_image(grey_file, (1, 32, 32)), g)
    np.testing.assert_array_equal(predict.read_image(grey_file, (3, 32, 32)), np.tile(g, (3, 1)))
    luminance = (c @ [0.299, 0.587, 0.114]).reshape(-1, 1)
    np.testing.assert_allclose(predict.read_image(colour_file, (1, 32, 32)), luminance, atol=1)

    net = draw(rng, shape=(1, 32, 32))
    kbn.save(tmp_path / "net.npz", **net)
    P, _ = kbn.forward((g - net["mean"]) / net["sd"], net["params"], net["stats"], 1e-3)
    status, out, err = call(tmp_path / "net.npz", grey_file, colour_file)
    assert (status, len(out), err) == (0, 2, [])
    assert f"class {P.argmax()} {100 * P.max():5.1f} %" in out[0]


def test_palettes_and_single_bits(rng, tmp_path):
    for picture in (noise(rng).quantize(50), noise(rng, "L").convert("1")):
        pixels = predict.read_image(saved(picture, tmp_path / "a.png"), (3, 32, 32))
        np.testing.assert_array_equal(pixels, planes(picture))
        assert pixels.min() < 50 and pixels.max() > 200


def test_sixteen_bits_are_scaled_to_eight(rng, tmp_path):
    wide = rng.integers(0, 2**16, (32, 32), np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 32 32 65535\n" + wide.astype(">u2").tobytes())
    files = [tmp_path / "a.pgm", *(saved(Image.fromarray(wide), tmp_path / name) for name in ("a.png", "a.tif"))]
    assert {Image.open(path).mode[0] for path in files} == {"I"}
    for path in files:
        np.testing.assert_allclose(predict.read_image(path, (1, 32, 32)).reshape(32, 32), wide / 257, atol=1)


def test_cmyk(rng, tmp_path):
    picture = noise(rng, "CMYK")
    c, m, y, k = 255.0 - np.asarray(picture).transpose(2, 0, 1)
    expected = np.stack([c, m, y]) * k / 255
    pixels = predict.read_image(saved(picture, tmp_path / "a.tif"), (3, 32, 32)).reshape(3, 32, 32)
    np.testing.assert_allclose(pixels, expected, atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_lie_on_white(mode, rng, tmp_path):
    picture = noise(rng, mode)
    *colours, alpha = np.asarray(picture).transpose(2, 0, 1) / 255
    expected = np.stack((colours * 3)[:3]) * alpha + 1 - alpha
    pixels = predict.read_image(saved(picture, tmp_path / "a.png"), (3, 32, 32)).reshape(3, 32, 32)
    np.testing.assert_allclose(pixels, 255 * expected, atol=2)


def test_what_is_transparent_leaves_no_dark_seam(tmp_path):
    picture = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (30, 30, 75, 75))
    red, green, _ = predict.read_image(saved(picture, tmp_path / "a.png"), (3, 32, 32)).reshape(3, 32, 32)
    assert red.min() >= 254 and green[16, 16] == 0 and green[0, 0] == 255


def test_a_transparent_entry_of_a_palette_is_white(tmp_path):
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.paste(1, (0, 0, 32, 16))
    for path in (tmp_path / "a.png", tmp_path / "a.gif"):
        pixels = predict.read_image(saved(picture, path, transparency=0), (3, 32, 32)).reshape(3, 32, 32)
        assert (pixels[:, 16:] == 255).all() and (pixels[:, :16] == np.array([40, 50, 60])[:, None, None]).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_is_its_first_frame(suffix, tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((250, 10, 20), (10, 250, 20))]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    pixels = predict.read_image(path, (3, 32, 32)).reshape(3, 32, 32)
    np.testing.assert_allclose(pixels, np.broadcast_to(np.array([250, 10, 20])[:, None, None], (3, 32, 32)), atol=8)


@pytest.mark.parametrize(
    "orientation, turn",
    [(1, None), (2, Image.FLIP_LEFT_RIGHT), (3, Image.ROTATE_180), (6, Image.ROTATE_90), (8, Image.ROTATE_270)],
)
def test_a_photograph_is_turned_upright(orientation, turn, tmp_path):
    upright = Image.new("RGB", (96, 64), "white")
    upright.paste("red", (0, 0, 48, 32))
    upright.paste("blue", (48, 32, 96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if turn is None else upright.transpose(turn)
    path = saved(stored, tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    pixels = predict.read_image(path, (3, 32, 32)).reshape(3, 32, 32).astype(int)
    white = (255, 255, 255)
    for (row, column), colour in {(8, 8): (254, 0, 0), (24, 24): (0, 0, 254), (8, 24): white, (24, 8): white}.items():
        assert abs(pixels[:, row, column] - colour).max() < 8


@pytest.mark.filterwarnings("error")
def test_a_damaged_note_of_the_camera_is_no_reason_to_complain(rng, tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x0f\x01\x02\0\xff\0\0\0\xff\0\0\0"
    path = saved(Image.new("RGB", (32, 32), (9, 99, 199)), tmp_path / "a.jpg", exif=exif)
    pixels = predict.read_image(path, (3, 32, 32)).reshape(3, -1).astype(int)
    assert abs(pixels.mean(axis=1) - (9, 99, 199)).max() < 4
    with pytest.raises(UserWarning):
        Image.open(path).getexif()


def test_pixels_that_have_no_scale_are_refused(tmp_path):
    for array in (np.zeros((4, 4), np.float32), np.full((4, 4), -1, np.int32), np.full((4, 4), 2**16, np.int32)):
        path = saved(Image.fromarray(array), tmp_path / "a.tif")
        with pytest.raises(ValueError, match="a.tif cannot be read .*8 or 16 bits"):
            predict.read_image(path, (3, 32, 32))


# ---------------------------------------------------------------------------------------------------------- what is said


def test_as_typed_in_another_folder(rng, tmp_path):
    kbn.save(tmp_path / "nét 1.npz", **colour_sums((3, 8, 8), ["röd", "grön", "blå"]))
    (tmp_path / "my pictures").mkdir()
    names = ["my pictures/ein schöner Tag.png", "my pictures/猫.png"]
    for name, colour in zip(names, ("blue", "#f00")):
        Image.new("RGB", (9, 9), colour).save(tmp_path / name)
    command = [sys.executable, Path(predict.__file__), "nét 1.npz", names[0], "no such file.png", names[1], "--top", "1"]
    for encoding, said in {"utf-8": (names[0], "blå"), "ascii": (r"my pictures/ein sch\xf6ner Tag.png", r"bl\xe5")}.items():
        job = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            encoding=encoding,
            env={**os.environ, "PYTHONIOENCODING": encoding, "OPENBLAS_NUM_THREADS": "1"},
        )
        blue, red = job.stdout.splitlines()
        assert blue.startswith(f"{said[0]}: ") and f" {said[1]} " in blue and blue.endswith("100.0 %")
        assert ".png: " in red and red.endswith("100.0 %")
        assert job.stderr.splitlines() == ["predict.py: error: no such file.png cannot be read (No such file or directory)"]
        assert job.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"nét 1.npz", "my pictures"}


@pytest.mark.parametrize("top, lines", [([], 3), (["--top", 1], 1), (["--top", 4], 4), (["--top", 99], 4)])
def test_top_says_how_many_classes(top, lines, model, rng, tmp_path, call):
    status, (line,), _ = call(model, saved(noise(rng), tmp_path / "a.png"), *top)
    percents = [float(percent) for percent in re.findall(r"([\d.]+) %", line)]
    assert status == 0 and len(percents) == lines and percents == sorted(percents, reverse=True)
    assert lines < 4 or abs(sum(percents) - 100) < 0.21


@pytest.mark.parametrize(
    "options, said",
    [
        (["net.npz", "a.png", "--top", "0"], "--top must be 1 or more"),
        (["net.npz", "a.png", "--top", "-3"], "--top must be 1 or more"),
        (["net.npz", "a.png", "--top", "two"], "'two'"),
        (["net.npz", "a.png", "--to", "2"], "--to"),
        (["net.npz"], "IMAGE"),
        ([], "MODEL"),
    ],
)
def test_options_that_are_typed_wrong(options, said, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main(options)
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    text = capsys.readouterr().out
    assert "python predict.py net.npz cat.png" in text and "default 3" in text and "EXIF" in text


def cut(picture, path, **options):
    """An image file that lacks its second half."""
    content = saved(picture, path, **options).read_bytes()
    path.write_bytes(content[: len(content) // 2])


BROKEN = {
    "missing.png": (lambda path, rng: None, "cannot be read (No such file or directory)"),
    "folder.png": (lambda path, rng: path.mkdir(), "cannot be read (Is a directory)"),
    "text.png": (lambda path, rng: path.write_text("hello"), "is not an image that Pillow can read"),
    "empty.png": (lambda path, rng: path.write_bytes(b""), "is not an image that Pillow can read"),
    "cut.png": (lambda path, rng: cut(noise(rng), path), "cannot be read ("),
    "cut.jpg": (lambda path, rng: cut(noise(rng, size=(200, 200)), path), "cannot be read ("),
    "cut.bmp": (lambda path, rng: cut(noise(rng), path), "cannot be read ("),
    "cut.gif": (lambda path, rng: cut(noise(rng, "L"), path), "cannot be read ("),
    "cut.tif": (lambda path, rng: cut(noise(rng), path, compression="tiff_deflate"), "is not an image that Pillow can read"),
    "large.png": (lambda path, rng: Image.new("1", (9500, 9500)).save(path), "exceeds limit"),
    "bomb.png": (lambda path, rng: Image.new("1", (20000, 10000)).save(path), "exceeds limit"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named_and_the_others_are_predicted(name, model, rng, tmp_path, call):
    good = [saved(noise(rng), tmp_path / f"{i}.png") for i in range(2)]
    make, said = BROKEN[name]
    make(tmp_path / name, rng)
    status, out, (line,) = call(model, good[0], tmp_path / name, good[1])
    assert status == 1
    assert line.startswith(f"predict.py: error: {tmp_path / name} ") and said in line and len(line) < 300
    assert [row[: row.index(":  ")] for row in out] == [str(path) for path in good]


def test_all_is_well_when_nothing_is_broken(model, rng, tmp_path, call):
    status, out, err = call(model, *[saved(noise(rng), tmp_path / f"{i}.png") for i in range(3)])
    assert (status, len(out), err) == (0, 3, [])


# --------------------------------------------------------------------------------------------------------------- models


def test_everything_stays_in_the_precision_of_params(rng, tmp_path):
    pixels = rng.integers(0, 256, (3072, 2), np.uint8)
    for dtype, other in [(np.float32, np.float64), (np.float64, np.float32), (np.float64, np.float64)]:
        net = draw(rng, dtype=dtype)
        net |= {"mean": net["mean"].astype(other), "sd": net["sd"].astype(other)}
        kbn.save(tmp_path / "net.npz", **net)
        P = predict.predict(predict.load_model(tmp_path / "net.npz"), pixels)
        exact = {key: param.astype(np.float64) for key, param in net["params"].items()}
        expected, _ = kbn.forward((pixels - net["mean"].astype(np.float64)) / net["sd"], exact, net["stats"], 1e-3)
        assert P.dtype == dtype
        np.testing.assert_allclose(P, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hp", [{"eps": 5.0}, {"eps": 1e-3, "bn": "after"}])
def test_the_networks_own_hyper_parameters_are_used(hp, rng, tmp_path):
    net = draw(rng) | {"hp": hp}
    kbn.save(tmp_path / "net.npz", **net)
    pixels = rng.integers(0, 256, (3072, 3), np.uint8)
    P = predict.predict(predict.load_model(tmp_path / "net.npz"), pixels)
    X = (pixels - net["mean"]) / net["sd"]
    np.testing.assert_allclose(P, kbn.forward(X, net["params"], net["stats"], **hp)[0], atol=1e-6)
    assert abs(P - kbn.forward(X, net["params"], net["stats"], 1e-3)[0]).max() > 1e-3


@pytest.mark.parametrize("shape", [(300, 1), (1, 3072), (3072,), (3, 32, 32)])
def test_pixels_of_another_shape_are_refused(shape, model):
    with pytest.raises(ValueError, match=r"must be \(3072, n\)"):
        predict.predict(predict.load_model(model), np.zeros(shape, np.uint8))


def refusal(call, tmp_path):
    """What is said of tmp_path/net.npz, which must be refused in one line before any image is looked at."""
    status, out, (line,) = call(tmp_path / "net.npz", tmp_path / "no image")
    assert status == 1 and out == [] and "no image" not in line
    assert line.startswith(f"predict.py: error: {tmp_path / 'net.npz'}")
    return line


@pytest.mark.parametrize("part", ["mean", "sd", "classes", "shape"])
def test_a_network_that_is_not_for_images_is_refused(part, rng, tmp_path, call):
    net = draw(rng)
    del net[part]
    kbn.save(tmp_path / "net.npz", **net)
    assert refusal(call, tmp_path).endswith(f"it lacks {part}")


@pytest.mark.parametrize(
    "part, value, said",
    [
        ("mean", np.zeros((3071, 1)), "mean must be (3072, 1) floats, not (3071, 1) float64"),
        ("mean", np.zeros(3072), "mean must be"),
        ("mean", np.full((3072, 1), np.nan), "mean must be finite"),
        ("mean", np.full((3072, 1), "1"), "mean must be"),
        ("sd", np.ones((1, 3072)), "sd must be (3072, 1)"),
        ("sd", np.zeros((3072, 1)), "sd finite and above 0"),
        ("sd", np.full((3072, 1), np.inf), "sd finite and above 0"),
        ("classes", np.array(["a", "b", "c"]), "classes must be (4,) names, not (3,)"),
        ("classes", np.arange(4), "classes must be"),
        ("shape", np.array([3, 32]), "shape must be (3,) integers"),
        ("shape", np.array([3.0, 32.0, 32.0]), "shape must be (3,) integers"),
        ("shape", np.array([3, 32, 31]), "not (3, 32, 31)"),
        ("shape", np.array([32, 32, 3]), "not (32, 32, 3)"),
        ("shape", np.array([3, -32, -32]), "not (3, -32, -32)"),
        ("shape", np.array([2, 48, 32]), "not (2, 48, 32)"),
        ("shape", np.array([3, 2**63 + 1024, 2], np.uint64), "not (3, 9223372036854776832, 2)"),
    ],
)
def test_a_network_whose_parts_do_not_fit_is_refused(part, value, said, rng, tmp_path, call):
    kbn.save(tmp_path / "net.npz", **draw(rng) | {part: value})
    assert said in refusal(call, tmp_path)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path, whole: path.unlink(), "cannot be read (No such file or directory)"),
        (lambda path, whole: path.unlink() or path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path, whole: path.write_bytes(b""), "is not a network"),
        (lambda path, whole: path.write_text("hello"), "is not a network"),
        (lambda path, whole: path.write_bytes(whole[:-100]), "is not a network"),
        (lambda path, whole: np.savez(path, W1=np.ones((2, 2))), "is not a network"),
        (lambda path, whole: Image.new("L", (2, 2)).save(path, "png"), "is not a network"),
        (
            lambda path, whole: np.savez(path, **{"more.classes": np.zeros(1, [(f"field {i}", "f4") for i in range(2000)])}),
            "is not a network",
        ),  # of which numpy complains in many lines
    ],
)
def test_what_is_no_network_is_refused(make, said, model, tmp_path, call):
    make(model, model.read_bytes())
    assert said in refusal(call, tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("part", ["mean", "classes", "hp"])
def test_a_model_cannot_run_code(part, rng, tmp_path, call):
    evil = np.array(Evil(tmp_path / "ran"), dtype=object)
    kbn.save(tmp_path / "net.npz", **draw(rng) | {part: {"eps": evil} if part == "hp" else evil})
    assert "is not a network" in refusal(call, tmp_path)
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "net.npz", allow_pickle=True)["hp.eps" if part == "hp" else f"more.{part}"]
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("error")
def test_scores_beyond_the_precision_are_not_printed_as_probabilities(rng, tmp_path, call):
    net = colour_sums((3, 8, 8), COLOURS)
    net["params"]["W1"] *= 1e308
    kbn.save(tmp_path / "net.npz", **net)
    status, out, err = call(tmp_path / "net.npz", saved(Image.new("RGB", (8, 8), "white"), tmp_path / "a.png"))
    assert (status, out, err) == (1, [], ["predict.py: error: the network's scores are not finite"])

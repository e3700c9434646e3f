"""The fully-connected CRF, against recordings of the reference, the exact sum, and itself."""

import functools
import importlib.util
import json

import numba
import numpy as np
import pytest
import tensorflow as tf

import original
from deeplab_tf import crf
from deeplab_tf import fast
from deeplab_tf.crf import graph
from deeplab_tf.crf import kernels
from deeplab_tf.crf import lattice
from deeplab_tf.crf import vectors
from deeplab_tf.errors import UserError
from original import rule

RECORDED = ("voc_bird_321_v1", "camvid_480x360_v2", "small_bird_48x64_v1")
SMALL_KERNELS = {"bilateral_sigma_xy": 8.0, "bilateral_sigma_rgb": 20.0, "gaussian_sigma_xy": 1.5}


def recorded_case(shared, name: str):
    """Arrays of a recorded case, its probabilities [H, W, C] and the arguments of the CRF."""
    case = np.load(shared / "crf_oracle" / f"{name}.npz")
    recorded = json.loads(str(case["params"]))
    likelihoods = np.exp(-case["unary_chw"].astype(np.float32)).transpose(1, 2, 0)
    arguments = {
        "iterations": recorded["iterations"],
        "bilateral_weight": recorded["bi_w"],
        "bilateral_sigma_xy": recorded["bi_xy_std"],
        "bilateral_sigma_rgb": recorded["bi_rgb_std"],
        "gaussian_weight": recorded["pos_w"],
        "gaussian_sigma_xy": recorded["pos_xy_std"],
    }
    return case, likelihoods / likelihoods.sum(axis=-1, keepdims=True), arguments


def noisy_image(height: int, width: int, num_classes: int, seed: int = 0):
    """An image of coloured stripes and noisy probabilities of the stripes' classes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    label = (x + y // 2) * num_classes // (width + height // 2)
    palette = random.integers(0, 256, [num_classes, 3])
    image = np.clip(palette[label] + random.normal(0, 6, [height, width, 3]), 0, 255)
    logits = 1.5 * np.eye(num_classes)[label] + random.normal(0, 1, [height, width, num_classes])
    likelihoods = np.exp(logits)
    return image.astype(np.uint8), likelihoods / likelihoods.sum(axis=-1, keepdims=True)


def exact_mean_field(image, probabilities, arguments, costs):
    """Mean field in the model itself: every pair of pixels, float64, normalized symmetrically."""
    height, width, num_classes = probabilities.shape
    positions = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2).astype(float)
    colors = image.reshape(-1, 3) / arguments["bilateral_sigma_rgb"]
    kernel = 0
    for weight, features in (
        (
            arguments["bilateral_weight"],
            np.concatenate([positions / arguments["bilateral_sigma_xy"], colors], axis=1),
        ),
        (arguments["gaussian_weight"], positions / arguments["gaussian_sigma_xy"]),
    ):
        squares = np.sum((features[:, None] - features) ** 2, axis=-1)
        gaussian = np.exp(-squares / 2)
        scale = 1 / np.sqrt(gaussian.sum(axis=1))
        kernel = kernel + weight * scale[:, None] * gaussian * scale
    own = np.log(probabilities.reshape(-1, num_classes))
    beliefs = probabilities.reshape(-1, num_classes)
    for _ in range(arguments["iterations"]):
        beliefs = np.exp(own - kernel @ beliefs @ costs)
        beliefs /= beliefs.sum(axis=1, keepdims=True)
    return beliefs.reshape(probabilities.shape)


def labels_equal(one: np.ndarray, other: np.ndarray) -> float:
    return np.mean(one.argmax(axis=-1) == other.argmax(axis=-1))


@pytest.mark.parametrize("iterations", [1, 10])
def test_a_small_result_equals_that_of_the_authors_code(iterations):
    record = original.load("crf")
    size = record["height"], record["width"]
    image = rule.images(*size, record["image_seed"])[0]
    random = np.random.RandomState(record["logits_seed"])
    likelihoods = np.exp(1.5 * random.standard_normal((*size, record["num_classes"])))
    probabilities = likelihoods / likelihoods.sum(axis=-1, keepdims=True)
    result = crf.dense_crf(image, probabilities, iterations=iterations, **record["arguments"])
    expected = record[f"probabilities_after_{iterations}"]
    np.testing.assert_allclose(result[::3, ::4], expected, atol=1e-4)
    labels = ["".join(map(str, row)) for row in result.argmax(axis=-1)]
    assert labels == record[f"labels_after_{iterations}"]


@pytest.mark.parametrize("name", RECORDED)
def test_results_equal_the_recorded_ones_of_the_reference(shared, name):
    case, probabilities, arguments = recorded_case(shared, name)
    result = crf.dense_crf(case["image"], probabilities, **arguments)
    assert np.mean(result.argmax(axis=-1) == case["map"]) >= 0.9999
    np.testing.assert_allclose(result.transpose(2, 0, 1), case["Q_chw"], atol=1e-3)
    after_one = crf.dense_crf(case["image"], probabilities, **{**arguments, "iterations": 1})
    if "sample" in case:
        rows = [beliefs.reshape(-1, beliefs.shape[-1]) for beliefs in (result, after_one)]
        np.testing.assert_allclose(rows[0][case["sample"]], case["Q32"], atol=1e-4)
        np.testing.assert_allclose(rows[1][case["sample"]], case["Q32_iter1"], atol=1e-5)
    else:
        np.testing.assert_allclose(result.transpose(2, 0, 1), case["Q_chw"], atol=1e-4)
        np.testing.assert_allclose(after_one.transpose(2, 0, 1), case["Q_iter1_chw"], atol=1e-5)


def test_the_error_against_the_exact_result_is_no_larger_than_the_references(shared):
    case, probabilities, arguments = recorded_case(shared, "small_bird_48x64_v1")
    ours = crf.dense_crf(case["image"], probabilities, **arguments).transpose(2, 0, 1)
    exact = case["Q_exact_chw"]
    assert np.mean(np.abs(ours - exact)) <= np.mean(np.abs(case["Q_chw"] - exact)) + 1e-6
    assert np.sum(ours.argmax(0) != exact.argmax(0)) <= np.sum(case["map"] != exact.argmax(0))


@pytest.mark.parametrize("with_matrix", [False, True])
def test_the_result_is_near_the_sum_over_all_pairs(with_matrix):
    image, probabilities = noisy_image(24, 30, 3)
    arguments = {**SMALL_KERNELS, "iterations": 5, "bilateral_weight": 2, "gaussian_weight": 1}
    # Classes 0 and 1 may lie side by side at half the price.
    costs = np.array([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]]) if with_matrix else 1 - np.eye(3)
    exact = exact_mean_field(image, probabilities, arguments, costs)
    matrix = costs if with_matrix else None
    ours = crf.dense_crf(image, probabilities, **arguments, compatibility=matrix)
    assert labels_equal(ours, exact) >= 0.98
    assert np.mean(np.abs(ours - exact)) <= 0.02
    # The bounds mean something: the CRF moves the probabilities by much more.
    assert np.mean(np.abs(exact - probabilities)) >= 0.1


@pytest.mark.parametrize("num_classes", [2, 8, 11, 21, 27])  # rows of one vector, or of several
@pytest.mark.parametrize("with_matrix", [False, True])
def test_tensorflow_and_numba_agree(num_classes, with_matrix):
    image, probabilities = noisy_image(20, 27, num_classes)
    matrix = None
    if with_matrix:
        matrix = np.random.default_rng(1).uniform(0, 1, [num_classes, num_classes])
        matrix = (matrix + matrix.T) / 2
    ours = crf.dense_crf(image, probabilities, **SMALL_KERNELS, compatibility=matrix)
    plain = graph.dense_crf_graph(
        image[None], probabilities[None], **SMALL_KERNELS, compatibility=matrix
    )
    np.testing.assert_allclose(plain[0], ours, atol=1e-4)


def test_both_agree_on_noise_with_more_lattice_points_than_pixels():
    image = np.random.default_rng(0).integers(0, 256, [30, 40, 3]).astype(np.uint8)
    _, probabilities = noisy_image(30, 40, 3)
    ours = crf.dense_crf(image, probabilities)
    plain = graph.dense_crf_graph(image[None], probabilities[None])
    np.testing.assert_allclose(plain[0], ours, atol=1e-4)


def test_without_numba_tensorflow_takes_over_and_says_so(monkeypatch, caplog):
    image, probabilities = noisy_image(20, 27, 3)
    options = {**SMALL_KERNELS, "iterations": 3, "return_energy": True}
    ours, energies = crf.dense_crf(image, probabilities, **options)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else find_spec(name)
    )
    unsaid = functools.cache(fast.warn_that_numba_is_missing.__wrapped__)
    monkeypatch.setattr(fast, "warn_that_numba_is_missing", unsaid)
    for _ in range(2):
        plain, plain_energies = crf.dense_crf(image, probabilities, **options)
        np.testing.assert_allclose(plain, ours, atol=1e-4)
        np.testing.assert_allclose(plain_energies, energies, rtol=1e-5)
    (warning,) = [one for one in caplog.messages if "numba" in one]
    assert "is not installed" in warning and "deeplab_tf[fast]" in warning


def test_where_numba_cannot_compile_tensorflow_takes_over_and_says_so(monkeypatch, caplog):
    def fail(*_):
        raise numba.TypingError("Unknown attribute 'alloca_once'\nDuring: typing of intrinsic")

    image, probabilities = noisy_image(20, 27, 3)
    ours = crf.dense_crf(image, probabilities, **SMALL_KERNELS)
    monkeypatch.setattr(kernels, "work", fail)
    untried = functools.cache(fast.load_and_try.__wrapped__)
    monkeypatch.setattr(fast, "load_and_try", untried)
    for _ in range(2):
        plain = crf.dense_crf(image, probabilities, **SMALL_KERNELS)
        np.testing.assert_allclose(plain, ours, atol=1e-4)
    (warning,) = [one for one in caplog.messages if "numba" in one]
    assert "deeplab_tf[fast]" in warning and "(TypingError: Unknown attribute" in warning


def test_the_graph_works_on_any_size_after_saving_and_loading(tmp_path):
    module = tf.Module()
    module.refine = tf.function(
        lambda images, probabilities: graph.dense_crf_graph(
            images, probabilities, **SMALL_KERNELS, iterations=2
        ),
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8),
            tf.TensorSpec([None, None, None, 3], tf.float32),
        ],
    )
    tf.saved_model.save(module, str(tmp_path))
    refine = tf.saved_model.load(str(tmp_path)).refine
    for batch, height, width in ((1, 11, 14), (2, 9, 6)):
        images = [noisy_image(height, width, 3, seed) for seed in range(batch)]
        image, probabilities = map(np.array, zip(*images, strict=True))
        refined = refine(image, probabilities.astype("float32"))
        ours = crf.dense_crf(image, probabilities, **SMALL_KERNELS, iterations=2)
        np.testing.assert_allclose(refined, ours, atol=1e-4)


def test_a_batch_equals_its_images_one_by_one():
    images = [noisy_image(40, 50, 5, seed) for seed in range(3)]
    image, probabilities = map(np.array, zip(*images, strict=True))
    batch, energies = crf.dense_crf(
        image, probabilities, return_energy=True, iterations=4, num_threads=2
    )
    assert batch.shape == (3, 40, 50, 5) and energies.shape == (3, 5)
    for i, one in enumerate(images):
        np.testing.assert_array_equal(crf.dense_crf(*one, iterations=4), batch[i])


def test_the_number_of_threads_does_not_change_the_result():
    image = noisy_image(110, 130, 11)
    alone = crf.dense_crf(*image, num_threads=1)
    np.testing.assert_allclose(crf.dense_crf(*image, num_threads=3), alone, atol=1e-6)


def test_probabilities_sum_to_one_and_follow_their_classes():
    image, probabilities = noisy_image(40, 50, 11)
    result = crf.dense_crf(image, probabilities)
    assert result.dtype == np.float32 and result.shape == probabilities.shape
    np.testing.assert_allclose(result.sum(axis=-1), 1, atol=1e-5)
    order = np.random.default_rng(0).permutation(11)
    permuted = crf.dense_crf(image, probabilities[..., order])
    np.testing.assert_allclose(permuted, result[..., order], atol=1e-4)


@pytest.mark.parametrize(
    "nothing_to_do", [{"iterations": 0}, {"bilateral_weight": 0, "gaussian_weight": 0}]
)
def test_without_updates_or_kernels_the_probabilities_stay(nothing_to_do):
    image, probabilities = noisy_image(12, 15, 3)
    result = crf.dense_crf(image, probabilities, **nothing_to_do)
    np.testing.assert_allclose(result, probabilities, atol=1e-6)


def test_every_update_lowers_the_energy():
    _, energies = crf.dense_crf(*noisy_image(48, 64, 4), return_energy=True)
    assert energies.shape == (11,)
    assert np.all(np.diff(energies) < 1e-8 * energies[-1])  # where it stays, there is rounding


def test_blocks_of_pixels_and_threads_do_not_change_the_result(monkeypatch):
    image = noisy_image(48, 64, 11)
    whole = crf.dense_crf(*image, num_threads=1)
    monkeypatch.setattr(lattice, "_ITEMS_AT_ONCE", 250)
    monkeypatch.setattr(kernels, "_POINTS_AT_ONCE", 100)
    monkeypatch.setattr(kernels, "_POSITIONS_AT_ONCE", 100)
    results = []
    for num_threads in (1, 3):
        lattice.build_of_positions.cache_clear()  # it keeps blocks, too
        results.append(crf.dense_crf(*image, num_threads=num_threads))
    lattice.build_of_positions.cache_clear()
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], whole, atol=1e-4)


def test_energies_of_the_first_beliefs_equal_the_definition():
    # Where all features coincide, every pixel is linked to each by weight / number of pixels.
    image, probabilities = np.zeros([6, 7, 3], np.uint8), noisy_image(6, 7, 3)[1]
    far = {"bilateral_sigma_xy": 1e6, "gaussian_sigma_xy": 1e6}
    _, energies = crf.dense_crf(image, probabilities, return_energy=True, iterations=0, **far)
    total = probabilities.sum(axis=(0, 1))
    unlike = (total.sum() ** 2 - np.sum(total**2)) / 42
    # Probabilities of the unary's own cost their entropy, which is subtracted again.
    assert energies[0] == pytest.approx((4 + 3) * unlike / 2, rel=1e-3)


def test_the_potts_model_as_a_matrix_gives_the_same():
    image, probabilities = noisy_image(30, 40, 11)
    default, energies = crf.dense_crf(image, probabilities, return_energy=True)
    matrix, same_energies = crf.dense_crf(
        image, probabilities, compatibility=1 - np.eye(11), return_energy=True
    )
    np.testing.assert_allclose(matrix, default, atol=1e-4)
    np.testing.assert_allclose(same_energies, energies, rtol=1e-5)


def test_screening_leaves_out_only_classes_that_cannot_win():
    image, probabilities = noisy_image(40, 50, 3)
    absent = np.full([40, 50, 18], 1e-4)
    probabilities = np.concatenate([probabilities * (1 - 18e-4), absent], axis=-1)
    whole = crf.dense_crf(image, probabilities)
    screened = crf.dense_crf(image, probabilities, screen_classes=True)
    assert screened.shape == whole.shape
    assert np.all(screened[..., 3:] == 0)
    assert labels_equal(screened, whole) == 1
    np.testing.assert_allclose(screened, whole, atol=0.03)


def test_screening_leaves_few_classes_alone_as_that_would_save_no_time():
    image, probabilities = noisy_image(20, 27, 3)
    probabilities = np.concatenate([probabilities, np.full((20, 27, 1), 1e-9)], axis=-1)
    screened = crf.dense_crf(image, probabilities, screen_classes=True)
    np.testing.assert_array_equal(screened, crf.dense_crf(image, probabilities))
    assert np.all(screened[..., 3] > 0)


def test_screening_leaves_no_class_out_where_all_may_win():
    image, probabilities = noisy_image(30, 40, 5)
    screened = crf.dense_crf(image, probabilities, screen_classes=True)
    np.testing.assert_array_equal(screened, crf.dense_crf(image, probabilities))


def test_zero_probabilities_are_allowed():
    image, _ = noisy_image(20, 30, 3)
    label = (np.arange(30) // 15)[None].repeat(20, axis=0)
    result = crf.dense_crf(image, np.eye(3)[label])
    np.testing.assert_allclose(result, np.eye(3)[label], atol=1e-6)


def test_labels_become_probabilities_of_a_certainty():
    probabilities = crf.unary_from_labels(np.array([[0, 2, 255]]), num_classes=3, certainty=0.6)
    third = 1 / 3
    expected = [[[0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [third, third, third]]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)


def test_the_crf_fills_in_what_labels_leave_undecided():
    image = np.full([20, 20, 3], 40, np.uint8)
    image[:, 10:] = 200
    labels = np.full([20, 20], 255)
    labels[::4, ::4] = image[::4, ::4, 0] // 128
    unary = crf.unary_from_labels(labels, num_classes=2, certainty=0.9)
    np.testing.assert_array_equal(crf.dense_crf(image, unary).argmax(-1), image[..., 0] // 128)


def bad(image=None, probabilities=None, **arguments):
    good_image, good_probabilities = noisy_image(4, 5, 3)
    return (
        good_image if image is None else image,
        good_probabilities if probabilities is None else probabilities,
        arguments,
    )


def with_nan():
    probabilities = noisy_image(4, 5, 3)[1]
    probabilities[1, 2, 0] = np.nan
    return probabilities


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(probabilities=np.ones([4, 5, 3])), r"20 pixel.*\(0, 0\): 3.0; apply softmax"),
        (bad(probabilities=with_nan()), r"1 pixel.*\(1, 2\): nan.*look for NaN"),
        (bad(probabilities=np.full([4, 5, 3], [2.0, 1.0, -2.0])), "is -2.0; apply softmax"),
        (bad(probabilities=np.ones([4, 5, 3], int)), "int64; pass floats.*unary_from_labels"),
        (bad(probabilities=np.full([5, 4, 3], 1 / 3)), r"\[5, 4, 3\] do not fit.*\[4, 5, 3\]"),
        (bad(probabilities=np.full([1, 4, 5, 3], 1 / 3)), r"\[1, 4, 5, 3\] do not fit"),
        (bad(probabilities=np.ones([4, 5, 1])), r"1 class\(es\).*\[1 - p, p\]"),
        (bad(image=np.zeros([4, 5], np.uint8)), r"must be RGB.*uint8 \[4, 5\]: convert"),
        (bad(image=np.zeros([4, 5, 4], np.uint8)), "must be RGB"),
        (bad(image=np.zeros([4, 5, 3])), "float64.*cast levels 0..255 to uint8"),
        (bad(image=np.zeros([0, 5, 3], np.uint8), probabilities=np.ones([0, 5, 3])), "empty"),
        (bad(bilateral_sigma_xy=0), "bilateral_sigma_xy is 0; it must be positive"),
        (bad(bilateral_sigma_rgb=-1), "bilateral_sigma_rgb is -1; it must be positive"),
        (bad(gaussian_sigma_xy=np.nan), "gaussian_sigma_xy is nan; it must be positive"),
        (bad(bilateral_sigma_rgb=1e-9), "too small for an image of this size"),
        (bad(gaussian_weight=-1), "gaussian_weight is -1; it must be positive, or 0"),
        (bad(iterations=-1), "iterations is -1"),
        (bad(num_threads=0), "num_threads is 0; pass at least 1"),
        (bad(compatibility=np.ones([2, 2])), r"\[2, 2\], but.*3 classes; pass \[3, 3\]"),
        (bad(compatibility=np.tri(3)), "symmetric.*matrix.T"),
        (bad(compatibility=np.ones([3, 3]), screen_classes=True), "pass either"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, message):
    image, probabilities, arguments = call
    with pytest.raises(UserError, match=f"(?s){message}"):
        crf.dense_crf(image, probabilities, **arguments)


def test_the_graph_refuses_a_single_image():
    image, probabilities = noisy_image(4, 5, 3)
    with pytest.raises(UserError, match=r"\[4, 5, 3\]; pass a batch"):
        graph.dense_crf_graph(image, probabilities)


@pytest.mark.parametrize(
    ("labels", "certainty", "message"),
    [
        ([[0, 3]], 0.9, r"0..2 or the ignore label 255; got int64 with \[3\]"),
        ([[0.0, 1.0]], 0.9, "must be integers"),
        ([[0, 1]], 0.2, "above 1 / num_classes = 0.333"),
        ([[0, 1]], 1.0, "and below 1"),
    ],
)
def test_bad_labels_are_refused_with_a_remedy(labels, certainty, message):
    with pytest.raises(UserError, match=message):
        crf.unary_from_labels(np.array(labels), num_classes=3, certainty=certainty)


def test_kernels_compile_where_machine_code_cannot_be_kept():
    functions = {}
    exec("def double(x): return 2 * x", functions)  # Numba keeps code beside a file: here is none
    assert vectors.compiled(functions["double"])(21) == 42

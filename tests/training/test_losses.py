"""Losses, against recorded values of the original and by hand."""

import numpy as np
import pytest
import tensorflow as tf

import original
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.training import losses

WEIGHTS = (0.1, 0.5, 2.0, 1.0)


def value(terms) -> tf.Tensor:
    """What a training step on one device makes of the terms."""
    return tf.add_n(
        [tf.reduce_sum(tf.math.divide_no_nan(sums, counts)) for sums, counts in terms.values()]
    )


@pytest.mark.parametrize(
    "case",
    [
        "upsampled",
        "upsampled_label_weights_list",
        "upsampled_label_weight_0.5",
        "labels_downsampled_nearest",
        "labels_downsampled_nearest_label_weights",
        "same_size_labels",
        "all_pixels_ignored",
        "top_k_0.25",
        "top_k_0.25_label_weights",
        "top_k_0.95_reaches_into_ignored_pixels",
        "top_k_0.5_all_pixels_ignored",
        "top_k_0.25_mining_step_100_at_0",
        "top_k_0.25_mining_step_100_at_1",
        "top_k_0.25_mining_step_100_at_50",
        "top_k_0.25_mining_step_100_at_99",
        "top_k_0.25_mining_step_100_at_100",
        "top_k_0.25_mining_step_100_at_500",
    ],
)
def test_the_loss_and_its_gradient_equal_the_original(case):
    values = original.load("loss")
    recorded = values["cases"][case]
    arguments = dict(recorded["arguments"])
    weights = arguments.pop("loss_weight", ())
    logits = tf.constant(values["logits"])
    label = values["labels_small" if recorded["labels"] == "labels_small" else "labels"]
    label = tf.constant(label, tf.int32)
    if recorded["labels"].startswith("all 255"):
        label = tf.fill(label.shape, 255)
    if not arguments.pop("upsample_logits", True):
        label = transforms.resize_nearest(label, logits.shape[1:3])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        upsampled = transforms.resize_bilinear(logits, label.shape[1:])
        terms = losses.weighted_terms(
            {"": upsampled},
            label,
            ignore_label=255,
            step=tf.constant(recorded["global_step"]),
            config=TrainConfig(
                class_weights=(weights,) * 4 if isinstance(weights, float) else tuple(weights),
                **arguments,
            ),
        )
        loss = value(terms)
    assert float(loss) == pytest.approx(recorded["loss"], rel=1e-5)
    gradient = tape.gradient(loss, logits)
    assert float(tf.norm(gradient)) == pytest.approx(
        recorded["gradient_l2_norm_wrt_logits"], rel=1e-5
    )


def test_ignored_pixels_count_neither_in_the_sum_nor_in_the_number():
    logits = tf.constant([[[[2.0, 0.0], [5.0, -5.0], [0.0, 0.0]]]])
    loss_sum, count = losses.cross_entropy(logits, tf.constant([[[0, 255, 1]]]), 255)
    assert float(count) == 2
    assert float(loss_sum) == pytest.approx(np.log1p(np.exp(-2.0)) + np.log(2.0))


def terms_of(logits, label, ignore_label: int = 255, step=0, **settings) -> dict:
    return losses.weighted_terms(
        logits, label, ignore_label=ignore_label, step=step, config=TrainConfig(**settings)
    )


ALL = {"cross_entropy_weight": 1.0, "focal_weight": 0.5, "dice_weight": 2.0, "lovasz_weight": 3.0}


def random_pixels(classes=4, ignore_label=255, dtype=tf.float32, shape=(2, 5, 7)):
    """Logits, and labels with some ignored pixels and without class 2."""
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 3, ignore_label], shape).astype(np.int32)
    return tf.cast(rng.normal(size=(*shape, classes)) * 2, dtype), tf.constant(label)


def test_every_scale_adds_its_own_loss_in_every_term():
    label = random_pixels()[1]
    logits = {scale: tf.random.stateless_normal([2, 5, 7, 4], [scale, 0]) for scale in (1, 2, 3)}
    together = terms_of(logits, label, **ALL)
    assert list(together) == ["cross_entropy", "focal", "dice", "lovasz"]
    apart = [terms_of({"": one}, label, **ALL) for one in logits.values()]
    assert float(value(together)) == pytest.approx(sum(float(value(one)) for one in apart))


def test_a_term_without_a_weight_is_not_computed():
    logits, label = random_pixels()
    terms = terms_of({"": logits}, label, cross_entropy_weight=0, dice_weight=0.5)
    assert list(terms) == ["dice"]
    loss_sum, count = losses.dice(logits, label, 255)
    assert float(terms["dice"][0][0]) == pytest.approx(0.5 * float(loss_sum))
    assert float(terms["dice"][1][0]) == float(count) == 3


SETTINGS = [
    {"cross_entropy_weight": 1.0},
    {"cross_entropy_weight": 1.0, "top_k_percent_pixels": 0.3, "hard_example_mining_step": 10},
    {"focal_weight": 1.0, "focal_gamma": 0.5},
    {"dice_weight": 1.0},
    {"lovasz_weight": 1.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_batch_of_ignored_pixels_only_is_zero_and_so_is_its_gradient(settings):
    for ignore_label in (255, 0):
        logits, label = random_pixels()
        with tf.GradientTape() as tape:
            tape.watch(logits)
            settings = {"cross_entropy_weight": 0.0} | settings
            nothing = tf.fill(label.shape, ignore_label)
            terms = terms_of({"": logits}, nothing, ignore_label, step=5, **settings)
            loss = value(terms)
        assert float(loss) == 0
        assert not np.any(tape.gradient(loss, logits))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("ignore_label", [255, 1])
def test_ignored_pixels_neither_give_nor_get_anything(settings, ignore_label):
    logits, label = random_pixels(ignore_label=ignore_label)
    kept = label != ignore_label
    results = []
    for scores, truth in (
        (logits, label),
        (tf.boolean_mask(logits, kept)[None, None], tf.boolean_mask(label, kept)[None, None]),
    ):
        settings = {"cross_entropy_weight": 0.0} | settings
        if "top_k_percent_pixels" in settings:  # a share of all pixels: make it 20 of them
            settings["top_k_percent_pixels"] = 20.5 / np.prod(truth.shape)
        with tf.GradientTape() as tape:
            tape.watch(scores)
            terms = terms_of({"": scores}, truth, ignore_label, step=10, **settings)
            loss = value(terms)
        results.append((loss, tape.gradient(loss, scores)))
    (loss, gradient), (expected, gradient_of_kept) = results
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert not np.any(tf.boolean_mask(gradient, ~kept))
    np.testing.assert_allclose(tf.boolean_mask(gradient, kept), gradient_of_kept[0, 0], atol=1e-7)


def test_the_share_of_hard_pixels_falls_linearly_to_its_end():
    shares = [float(losses.hard_pixel_share(step, 0.2, 100)) for step in (0, 25, 100, 1000)]
    assert shares == pytest.approx([1.0, 0.8, 0.2, 0.2])
    assert float(losses.hard_pixel_share(0, 0.2, 0)) == pytest.approx(0.2)


def softmax_of_counted(logits, label, ignore_label=255):
    """Probabilities [P, C] and classes [P] of the pixels that count, in float64."""
    kept = label.numpy() != ignore_label
    scores = np.exp(logits.numpy().astype(np.float64)[kept])
    return scores / scores.sum(axis=1, keepdims=True), label.numpy()[kept]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(gamma):
    logits, label = random_pixels()
    probabilities, classes = softmax_of_counted(logits, label)
    true = probabilities[np.arange(len(classes)), classes]
    expected = np.sum(np.array(WEIGHTS)[classes] * -((1 - true) ** gamma) * np.log(true))
    loss_sum, count = losses.focal(logits, label, 255, gamma=gamma, class_weights=WEIGHTS)
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(count) == len(classes)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_gradient_where_a_pixel_is_perfectly_right(gamma):
    logits = tf.constant([[[[200.0, 0.0], [0.0, 200.0]]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss, _ = losses.focal(logits, tf.constant([[[0, 0]]]), 255, gamma=gamma)
    np.testing.assert_allclose(tape.gradient(loss, logits)[0, 0], [[0, 0], [-1, 1]], atol=1e-5)


def test_dice_is_its_formula_over_the_classes_present():
    logits, label = random_pixels()
    probabilities, classes = softmax_of_counted(logits, label)
    expected = 0
    for number in (0, 1, 3):
        p, g = probabilities[:, number], classes == number
        expected += 1 - 2 * np.sum(p * g) / (np.sum(p**2) + np.sum(g**2))
    loss_sum, count = losses.dice(logits, label, 255)
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(count) == 3


def test_lovasz_is_its_definition_over_the_classes_present():
    """As sum of m_i (J(the i worst) - J(the i - 1 worst)), with J of sets of wrong pixels."""
    logits, label = random_pixels()
    probabilities, classes = softmax_of_counted(logits, label)

    def jaccard_loss(truth, wrong):
        predicted = np.where(wrong, ~truth, truth)
        return 1 - np.sum(truth & predicted) / np.sum(truth | predicted)

    expected = 0
    for number in (0, 1, 3):
        truth = classes == number
        errors = np.abs(truth - probabilities[:, number])
        wrong = np.zeros(len(errors), bool)
        for pixel in np.argsort(-errors):
            before = jaccard_loss(truth, wrong)
            wrong[pixel] = True
            expected += errors[pixel] * (jaccard_loss(truth, wrong) - before)
    loss_sum, count = losses.lovasz_softmax(logits, label, 255)
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)
    assert float(count) == 3


def test_lovasz_of_a_sure_prediction_is_one_minus_its_iou():
    label = tf.constant([[[0, 0, 0, 1, 1, 255]]])
    predicted = tf.constant([[[0, 0, 1, 1, 1, 0]]])
    loss_sum, count = losses.lovasz_softmax(100 * tf.one_hot(predicted, 2), label, 255)
    assert float(loss_sum) == pytest.approx((1 - 2 / 3) + (1 - 2 / 3))
    assert float(count) == 2


def test_lovasz_keeps_the_gradient_of_a_large_batch():
    """It sums slopes of the size of 1 / pixels, which float32 loses in 1 - IoU."""
    size = 1_000_000
    label = np.arange(size) % 2
    # The difference of the logits of the two classes; the error falls from pixel to pixel.
    margin = tf.linspace(-2.0, 2.0, size)
    with tf.GradientTape() as tape:
        tape.watch(margin)
        logits = tf.where(label[:, None] == [0, 1], margin[:, None], 0.0)
        loss_sum, _ = losses.lovasz_softmax(logits[tf.newaxis, tf.newaxis], label[None, None], 255)
    slopes = np.zeros(size)
    for class_id in (0, 1):
        of_class = np.cumsum(label == class_id)
        of_others = np.cumsum(label != class_id)
        iou = (of_class[-1] - of_class) / (of_class[-1] + of_others)
        slopes += np.diff(1 - iou, prepend=0.0)
    probability = 1 / (1 + np.exp(-margin.numpy().astype(np.float64)))
    expected = -slopes * probability * (1 - probability)
    scale = float(loss_sum) / np.sum(slopes * (1 - probability))  # the loss sums or averages
    np.testing.assert_allclose(tape.gradient(loss_sum, margin), scale * expected, rtol=1e-4)


def test_losses_are_computed_in_float32_and_inside_a_graph():
    logits, label = random_pixels(dtype=tf.bfloat16)

    @tf.function
    def loss(logits):
        return value(terms_of({"": logits}, label, step=tf.constant(3), **ALL))

    in_float32 = loss(tf.cast(logits, tf.float32))
    assert loss(logits).dtype == tf.float32
    assert float(loss(logits)) == pytest.approx(float(in_float32), rel=1e-6)


def test_class_weights_hold_until_their_last_step():
    logits, label = random_pixels()

    @tf.function
    def loss(step, **settings):
        return value(terms_of({"": logits}, label, step=step, focal_weight=0.5, **settings))

    weights = {"class_weights": (1.0, 2.0, 3.0, 4.0)}
    always, never = loss(tf.constant(0), **weights), loss(tf.constant(0))
    losses_of_steps = [
        float(loss(tf.constant(step), **weights, class_weights_steps=3)) for step in (0, 2, 3, 9)
    ]
    assert losses_of_steps == [always, always, never, never]
    assert float(always) > float(never)


def test_class_weights_of_another_number_of_classes_are_refused():
    logits, label = random_pixels()
    with pytest.raises(UserError, match="class_weights has 2 numbers, but there are 4 classes"):
        losses.cross_entropy(logits, label, 255, (1.0, 2.0))

"""The verdict on two traces: the maximum decides, and whatever was not compared is a failure."""

from __future__ import annotations

import numpy as np
import pytest

from parity import policy
from parity.compare import StageResult, compare, compare_point, numerics
from parity.traces import Trace

ONES = np.ones((2, 3))


def verdict(expected, actual, kind="float64", scale=0.0):
    return compare_point("stage/point", np.asarray(expected), np.asarray(actual), kind, scale).verdict


def stage_of(reference, port, **options):
    """The stage result of two dicts of points."""
    findings = compare(Trace(reference), Trace(port), stage="forward", **options)
    return StageResult("forward", findings)


# --- one point ------------------------------------------------------------------------------------------------------


def test_equal_arrays_pass_with_an_error_of_zero():
    finding = compare_point("stage/point", ONES, ONES.copy(), "float64")
    assert finding.passed and finding.error == 0.0


@pytest.mark.parametrize(("factor", "expected"), [(0.9, "pass"), (1.1, "fail")])
def test_the_limit_is_a_thousand_millionth_of_the_references_rms(factor, expected):
    reference = np.array([300.0, -400.0])  # rms = sqrt((9e4 + 16e4) / 2) = 353.55339...
    port = reference + np.array([0.0, factor * 1e-9 * 353.5533905932738])
    assert verdict(reference, port) == expected


def test_error_is_the_largest_difference_over_rms():
    finding = compare_point("stage/point", np.array([3.0, -4.0, 0.0, 0.0]), np.array([3.0, -4.0, 0.5, 0.0]), "float64")
    assert finding.error == pytest.approx(0.5 / 2.5)  # rms = sqrt(25 / 4)


def test_text_says_where_the_worst_element_is_and_both_values():
    reference, port = np.zeros((2, 3, 4)) + 1.5, np.zeros((2, 3, 4)) + 1.5
    port[1, 0, 3], port[0, 1, 1] = 7.25, 1.75
    text = compare_point("stage/point", reference, port, "float64").text
    assert "[1, 0, 3]" in text and "reference 1.5" in text and "port 7.25" in text


def test_one_wrong_pixel_of_a_million_fails():
    reference = np.random.RandomState(0).standard_normal((1, 1, 1000, 1000))
    port = reference.copy()
    port[0, 0, 511, 17] += 1e-6
    finding = compare_point("stage/point", reference, port, "float64")
    assert finding.verdict == "fail" and "[0, 0, 511, 17]" in finding.text


def test_a_sign_flipped_output_of_tiny_scale_fails():
    reference = 1e-7 * np.random.RandomState(0).standard_normal(100)
    assert verdict(reference, -reference) == "fail"


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_values_whose_squares_overflow_or_vanish_are_still_told_apart(scale):
    reference = scale * np.array([3.0, -4.0])
    assert verdict(reference, reference.copy()) == "pass"
    assert verdict(reference, reference * (1 + 1e-12)) == "pass"
    assert verdict(reference, reference * (1 + 1e-6)) == "fail"


def test_values_whose_difference_overflows_fail():
    assert verdict([1e308, 1.0], [-1e308, 1.0]) == "fail"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "port"])
def test_a_value_that_is_not_finite_on_one_side_fails(value, side):
    broken = ONES.copy()
    broken[1, 2] = value
    pair = (broken, ONES) if side == "reference" else (ONES, broken)
    finding = compare_point("stage/point", *pair, "float64")
    assert finding.verdict == "nonfinite" and finding.error == np.inf and "[1, 2]" in finding.text


def test_nan_against_infinity_and_infinities_of_other_sign_fail():
    for expected, actual in ((np.nan, np.inf), (np.inf, np.nan), (np.inf, -np.inf)):
        assert verdict([1.0, expected], [1.0, actual]) == "nonfinite"


def test_nan_or_the_same_infinity_at_the_same_place_passes():
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    assert verdict(values, values.copy()) == "pass"


def test_what_is_not_finite_on_both_sides_is_remarked():
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    finding = compare_point("stage/point", values, values.copy(), "float64")
    assert finding.passed and finding.text == "3 of 4 are NaN or infinite on both sides"


def test_an_array_without_a_finite_number_proves_nothing():
    values = np.array([np.nan, np.inf])
    assert verdict(values, values.copy()) == "nonfinite"
    assert verdict(np.array(np.nan), np.array(np.nan)) == "pass"  # such as the loss of a batch without a label


def test_nan_at_another_place_fails():
    assert verdict([1.0, np.nan], [np.nan, 1.0]) == "nonfinite"


def test_finite_values_beside_a_common_nan_are_still_compared():
    assert verdict([1.0, np.nan, 2.0], [1.0, np.nan, 2.1]) == "fail"


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.ones((1, 5)), np.ones((3, 5))),  # would broadcast
        (np.ones(()), np.ones((2, 2))),
        (np.ones((2, 1)), np.ones(2)),
        (np.ones((4, 6)), np.ones((6, 4))),  # would be equal if transposed
        (np.ones((2, 3)), np.ones(6)),
    ],
)
def test_another_shape_fails_without_broadcasting_or_transposing(expected, actual):
    finding = compare_point("stage/point", expected, actual, "float64")
    assert finding.verdict == "shape"
    assert str(expected.shape) in finding.text and str(actual.shape) in finding.text


def test_a_transposed_square_matrix_fails():
    matrix = np.random.RandomState(0).standard_normal((4, 4))
    assert verdict(matrix, matrix.T) == "fail"


@pytest.mark.parametrize("pair", [(np.ones(2), np.ones(2, np.int64)), (np.ones(2, np.int64), np.ones(2))])
def test_float_against_integer_fails_although_the_values_are_equal(pair):
    assert compare_point("stage/point", *pair, "float64").verdict == "kind"


def test_float32_against_float64_is_one_kind():
    assert verdict(np.float32([0.5, 0.25]), np.float64([0.5, 0.25])) == "pass"


def test_an_empty_array_stands_for_no_gradient():
    finding = compare_point("gradients/w", np.ones(3), np.zeros(0), "float64")
    assert finding.verdict == "gradient" and "port" in finding.text
    finding = compare_point("gradients/w", np.zeros(0), np.ones((2, 2)), "float64")
    assert finding.verdict == "gradient" and "reference" in finding.text
    assert verdict(np.zeros(0), np.zeros(0)) == "pass"


def test_a_zero_gradient_is_not_the_same_as_none():
    assert verdict(np.zeros(3), np.zeros(0)) == "gradient"


@pytest.mark.parametrize("actual", [1e-300, -1e-12, 1.0])
def test_anything_but_zero_against_a_reference_of_zeros_fails(actual):
    finding = compare_point("stage/point", np.zeros(4), np.array([0.0, 0.0, actual, 0.0]), "float64")
    assert finding.verdict == "fail" and finding.error == np.inf


def test_zeros_against_zeros_pass():
    assert verdict(np.zeros(4), np.zeros(4)) == "pass"


# --- discrete points ------------------------------------------------------------------------------------------------


def test_uint8_ids_are_compared_without_wrapping_around():
    finding = compare_point("postprocess/pred", np.uint8([3, 7]), np.uint8([4, 7]), "discrete")
    assert finding.verdict == "fail" and finding.error == 0.5  # one of two differs, by whatever amount
    assert "reference 3, port 4" in finding.text


def test_ids_of_another_integer_width_are_equal_by_value():
    assert verdict(np.int64([3, 255]), np.uint8([3, 255])) == "pass"


def test_integers_are_compared_exactly_whatever_the_class():
    large = np.int64([2**53 + 1])
    assert verdict(large, large - 1) == "fail"


def test_a_discrete_point_of_floats_must_be_equal_to_the_last_bit():
    assert verdict([1.0], [np.nextafter(1.0, 2.0)], "discrete") == "fail"
    assert verdict([1.0], [np.nextafter(1.0, 2.0)], "float64") == "pass"


# --- updates --------------------------------------------------------------------------------------------------------


def test_an_update_may_differ_by_the_last_bits_of_its_parameter():
    update = np.full(8, 1e-9)
    noisy = update + 2.0**-52  # one unit in the last place of a parameter in [1, 2)
    assert verdict(update, noisy, "sum", scale=1.0) == "pass"
    assert verdict(update, noisy, "float64") == "fail"
    assert verdict(update, 1.00001 * update, "sum", scale=1.0) == "fail"


def test_points_that_the_reference_gives_a_scale_are_judged_as_sums():
    reference = Trace({"1/update/conv.weight": np.full(8, 1e-9)}, {"scales": {"1/update/conv.weight": 1.0}})
    port = Trace({"1/update/conv.weight": np.full(8, 1e-9) + 2.0**-52})
    assert [finding.passed for finding in compare(reference, port, stage="step")] == [True]
    without_scale = Trace(reference.points)
    assert [finding.passed for finding in compare(without_scale, port, stage="step")] == [False]


def test_policy_limits_are_those_of_its_table():
    assert policy.limit("discrete", rms=5.0, scale=5.0) == 0.0
    assert policy.limit("float64", rms=5.0, scale=5.0) == pytest.approx(5e-9, rel=1e-12)
    assert policy.limit("sum", rms=5.0, scale=3.0) == pytest.approx(5e-9 + 3 * 2.0**-50, rel=1e-12)


# --- whole traces ---------------------------------------------------------------------------------------------------


def test_zero_points_fail():
    empty = stage_of({}, {})
    assert empty.findings == [] and not empty.passed


def test_a_stage_that_did_not_run_has_not_passed():
    assert not StageResult("forward", reason="not for this case").passed


def test_a_point_missing_in_the_port_fails():
    result = stage_of({"conv": ONES, "bn": ONES}, {"conv": ONES})
    assert not result.passed
    assert (result.first.point, result.first.verdict) == ("forward/bn", "missing")


def test_a_point_missing_in_the_reference_fails():
    result = stage_of({"conv": ONES}, {"conv": ONES, "bn": ONES})
    assert (result.first.point, result.first.verdict) == ("forward/bn", "missing")
    assert "reference" in result.first.text


def test_traces_without_common_names_fail():
    result = stage_of({"conv": ONES}, {"convolution": ONES})
    assert [finding.verdict for finding in result.findings] == ["missing", "missing"]


def test_the_first_divergence_is_the_first_in_the_references_order():
    reference = {"c": ONES, "a": ONES, "b": ONES}
    port = {"a": 2 * ONES, "b": 5 * ONES, "c": ONES}
    result = stage_of(reference, port)
    assert [finding.point for finding in result.findings] == ["forward/c", "forward/a", "forward/b"]
    assert result.first.point == "forward/a"
    assert result.worst == 4.0  # b is further off, but later


def test_later_points_that_agree_do_not_excuse_an_earlier_one():
    assert not stage_of({"a": ONES, "b": ONES}, {"a": ONES + 1e-6, "b": ONES}).passed


def test_ignored_points_may_be_on_one_side_only():
    ignored = [(r"^forward/head\.drop$", "the port has no dropout layer")]
    assert stage_of({"conv": ONES, "head.drop": ONES}, {"conv": ONES}, ignored=ignored).passed
    assert stage_of({"conv": ONES}, {"conv": ONES, "head.drop": ONES}, ignored=ignored).passed
    assert not stage_of({"conv": ONES, "tail.drop": ONES}, {"conv": ONES}, ignored=ignored).passed


def test_ignored_points_that_both_sides_have_are_compared_all_the_same():
    ignored = [(r"^forward/conv$", "no reason covers a wrong value")]
    assert not stage_of({"conv": ONES}, {"conv": 2 * ONES}, ignored=ignored).passed


def test_outputs_of_containers_are_compared_where_both_sides_have_them():
    reference = Trace({"block.conv": ONES, "block": ONES}, {"leaves": {"block.conv": "Conv2d"}})
    port = Trace({"block.conv": ONES}, {"leaves": {"block.conv": "Conv2D"}})
    assert all(finding.passed for finding in compare(reference, port, stage="forward"))
    assert all(finding.passed for finding in compare(port, reference, stage="forward"))
    wrong = Trace({"block.conv": ONES, "block": 3 * ONES}, port.meta)
    findings = compare(reference, wrong, stage="forward")
    assert [finding.point for finding in findings if not finding.passed] == ["forward/block"]


def test_leaves_are_not_optional_on_either_side():
    meta = {"leaves": {"conv": "Conv2d", "relu": "ReLU"}}
    both, one = Trace({"conv": ONES, "relu": ONES}, meta), Trace({"conv": ONES}, meta)
    for pair in ((both, one), (one, both)):
        assert [f.verdict for f in compare(*pair, stage="forward") if not f.passed] == ["missing"]


@pytest.mark.parametrize("point", ["output/semantic", "buffer/bn.running_mean", "dropout/head.drop", "relu@2"])
def test_points_that_are_no_module_outputs_are_not_optional(point):
    meta = {"leaves": {"conv": "Conv2d", "relu": "ReLU"}}
    reference, port = Trace({"conv": ONES, point: ONES}, meta), Trace({"conv": ONES}, meta)
    assert [f.point for f in compare(reference, port, stage="forward") if not f.passed] == [f"forward/{point}"]


def test_after_a_crash_the_first_point_not_reached_is_named_and_the_rest_is_left_out():
    reference = Trace({"a": ONES, "b": ONES, "c": ONES})
    port = Trace({"a": ONES}, {"crash": "ValueError: bad shape"})
    findings = compare(reference, port, stage="forward")
    assert [finding.point for finding in findings] == ["forward/a", "forward/b"]
    assert "ValueError: bad shape" in findings[-1].text


def test_a_crash_fails_the_stage_although_all_points_agree():
    result = StageResult(
        "forward", compare(Trace({"a": ONES}), Trace({"a": ONES}), stage="forward"), crash="port: boom"
    )
    assert not result.passed


def test_a_stage_result_is_json_able_and_holds_no_infinity():
    import json

    result = stage_of({"a": np.zeros(2)}, {"a": ONES})
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["worst"] is None and data["first"]["error"] is None
    assert (data["points"], data["differing"], data["passed"]) == (1, 1, False)


# --- float32 numerics -----------------------------------------------------------------------------------------------


def test_numerics_ratio_is_the_ports_rms_error_over_the_references():
    truth = np.ones(1000)
    alternating = np.where(np.arange(1000) % 2, 1.0, -1.0)
    report = numerics(
        Trace({"conv": truth}), Trace({"conv": truth + 1e-4 * alternating}), Trace({"conv": truth + 5e-4 * alternating})
    )
    assert report["ratio"] == pytest.approx(5.0) and report["point"] == "conv"
    assert report["worst"] == pytest.approx(5e-4) and report["reference_worst"] == pytest.approx(1e-4)


def test_numerics_takes_the_references_error_to_be_at_least_half_a_float32_step():
    truth = np.ones(10)
    report = numerics(Trace({"conv": truth}), Trace({"conv": truth}), Trace({"conv": truth + 2.0**-24}))
    assert report["ratio"] == pytest.approx(1.0)


def test_numerics_of_a_port_that_is_not_finite_in_float32_is_infinite():
    truth = np.ones(4)
    report = numerics(
        Trace({"conv": truth}), Trace({"conv": truth}), Trace({"conv": np.array([1.0, 1.0, np.nan, 1.0])})
    )
    assert report["ratio"] == np.inf and report["point"] == "conv"


def test_numerics_of_nothing_is_empty():
    assert numerics(Trace(), Trace(), Trace()) == {}
    assert (
        numerics(Trace({"pred": np.int64([1])}), Trace({"pred": np.int64([1])}), Trace({"pred": np.int64([1])})) == {}
    )


def test_a_scale_can_be_of_each_element():
    expected, actual = np.array([1.0, 1.0]), np.array([1.0, 1.0 + 5e-9])
    wide = np.array([0.0, 5e-9 / policy.SUM_ULPS])
    assert compare_point("x", expected, actual, "sum", wide).passed
    found = compare_point("x", expected, actual, "sum", wide[::-1])
    assert not found.passed and "at [1]" in found.text and found.error == pytest.approx(5e-9)


def test_the_element_that_is_furthest_beyond_its_own_limit_is_shown():
    expected = np.array([1.0, 1.0, 1.0])
    actual = expected + np.array([8e-9, 4e-9, 1e-12])
    found = compare_point("x", expected, actual, "sum", np.array([7e-9 / policy.SUM_ULPS, 0.0, 0.0]))
    assert not found.passed and "at [1]" in found.text

"""Schemes: what they refuse, what they say, and the bytes they promise."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.quantization.scheme import Scheme, linear_bytes, weight_bytes

schemes = st.one_of(
    st.builds(
        Scheme,
        bits=st.integers(2, 8),
        granularity=st.one_of(st.sampled_from(["tensor", "channel", (2, 4)]), st.sampled_from([1, 2, 4, 8])),
        symmetric=st.booleans(),
    ),
    st.builds(Scheme, bits=st.integers(2, 8), granularity=st.sampled_from(["tensor", "channel"]), codebook=st.just("kmeans")),
    st.builds(Scheme, bits=st.just(4), granularity=st.sampled_from([2, 8]), codebook=st.just("nf4")),
    st.builds(
        Scheme, bits=st.integers(2, 8), granularity=st.just("tensor"), codebook=st.just("vectors"), size=st.integers(2, 8)
    ),
    st.builds(Scheme, bits=st.integers(2, 8), activation=st.just("dynamic"), symmetric=st.booleans()),
    st.builds(Scheme, bits=st.integers(2, 8), activation=st.just("static"), activation_bits=st.integers(2, 8)),
)


@given(schemes)
def test_a_scheme_comes_back_from_json(scheme):
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme


@pytest.mark.parametrize(
    ("scheme", "bits_per_weight"),
    [
        (Scheme(), 8 + 32 / 768),
        (Scheme(4, 64), 4 + 32 / 64),
        (Scheme(4, 64, symmetric=False), 4 + 40 / 64),
        (Scheme(2, "tensor"), 2 + 32 / 768**2),
        (Scheme(3, "tensor", codebook="kmeans"), 3 + 32 * 8 / 768**2),
        (Scheme(4, 64, codebook="nf4"), 4 + 32 / 64),
        (Scheme(8, "tensor", codebook="vectors", size=4), 8 / 4 + 32 * 4 * 256 / 768**2),
    ],
    ids=str,
)
def test_the_bytes_of_a_weight_are_those_written_out_by_hand(scheme, bits_per_weight):
    assert weight_bytes((768, 768), scheme) * 8 == pytest.approx(bits_per_weight * 768**2, rel=1e-12)


def test_codes_that_fill_no_whole_byte_take_one_more():
    assert weight_bytes((3, 3), Scheme(3, "tensor")) == 4 + 4  # 27 bits, one scale


def test_a_linear_layer_adds_its_bias_and_a_static_one_its_input_scale_and_zero_point():
    whole = weight_bytes((10, 8), Scheme())
    assert linear_bytes((10, 8), Scheme(), bias=False) == whole
    assert linear_bytes((10, 8), Scheme(activation="dynamic")) == whole + 40
    assert linear_bytes((10, 8), Scheme(activation="static")) == whole + 40 + 4 + 1


def test_a_scheme_says_what_it_is():
    assert str(Scheme(4, 64)) == "4 bits, symmetric, groups of 64, float inputs"
    assert (
        str(Scheme(activation="static", symmetric=False, activation_bits=6)) == "8 bits, asymmetric, per channel, int6 inputs"
    )
    assert str(Scheme(8, "tensor", codebook="vectors", size=4)) == "8 bits for 4 weights, vectors, per tensor, float inputs"
    assert str(Scheme(3, "tensor", codebook="kmeans")) == "3 bits, kmeans, per tensor, float inputs"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 0}, "bits = 0: expected a whole number from 2 to 8"),
        ({"bits": 9}, "bits = 9"),
        ({"bits": 17}, "bits = 17"),
        ({"bits": True}, "bits = True"),
        ({"bits": 4.0}, "bits = 4.0"),
        ({"activation": "int8"}, "activation = 'int8': expected one of none, dynamic, static"),
        ({"codebook": "lloyd"}, "codebook = 'lloyd'"),
        ({"codebook": "nf4"}, "bits = 8: expected 4 for nf4"),
        ({"codebook": "kmeans", "symmetric": False}, "symmetric = False"),
        ({"codebook": "kmeans", "activation": "dynamic"}, "codebook = 'kmeans': expected None with integer activations"),
        ({"codebook": "vectors", "granularity": "tensor"}, "size = 1: expected a number of at least 2 with vectors, else 1"),
        ({"codebook": "vectors", "size": 4}, "granularity = 'channel': expected 'tensor' with vectors"),
        ({"size": 2}, "size = 2"),
        ({"granularity": 64, "activation": "dynamic"}, "granularity = 64: expected 'tensor' or 'channel'"),
        ({"activation_bits": 4}, "activation_bits = 4: expected 8 unless"),
        ({"activation": "static", "activation_bits": 9}, "activation_bits = 9"),
    ],
)
def test_fields_out_of_range_or_against_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Scheme(**fields)

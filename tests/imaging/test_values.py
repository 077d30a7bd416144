import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kitspipe.imaging.values import count_labels, to_hounsfield
from kitspipe.imaging.volume import contiguous

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)


@given(hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 0, 0, 1, 2, 255])))
def test_labels_are_counted_as_numpy_counts_them(labels):
    assert (count_labels(labels) == np.bincount(labels.ravel(), minlength=256)).all()


@given(hnp.arrays(np.int16, SHAPES))
def test_hounsfield_units_end_at_air(values):
    before = values.copy()
    assert (to_hounsfield(values) == np.maximum(before, -1024)).all()
    assert (values == before).all()


@given(
    hnp.arrays(np.int16, SHAPES),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_a_turned_array_is_laid_out_as_numpy_does(array, axes, signs):
    z, y, x = (slice(None, None, sign) for sign in signs)
    turned = array.transpose(axes)[z, y, x]
    laid_out = contiguous(turned)
    assert laid_out.flags.c_contiguous
    assert (laid_out == np.ascontiguousarray(turned)).all()

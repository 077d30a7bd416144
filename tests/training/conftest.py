"""What the tests of training share."""

import pytest
from small_training import preprocessed


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A workspace with the arrays of two cases; nobody changes it."""
    return preprocessed(tmp_path_factory.mktemp("workspace"))

"""A warning that our own modules cause fails the test that meets it; one of another package does not."""

from __future__ import annotations

import warnings

import pytest


@pytest.mark.parametrize("module", ["tunelab", "tunelab.training.loop", __name__])
@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning])
def test_a_warning_of_our_modules_is_an_error(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="old"):
        warn(module, category)


@pytest.mark.parametrize(
    "module", ["torchao", "torchao.quantization", "transformers.tunelab", "tunelab_plugin", "tiny"]
)
def test_a_warning_of_another_package_is_none(module: str) -> None:
    with warnings.catch_warnings(record=True) as seen:  # under the filters that hold for every test
        warn(module, FutureWarning)
    assert [str(one.message) for one in seen] == ["old"], "it is shown"


def test_an_exception_that_nobody_can_catch_is_an_error() -> None:
    with pytest.raises(pytest.PytestUnraisableExceptionWarning):
        warn("_pytest.unraisableexception", pytest.PytestUnraisableExceptionWarning)


def warn(module: str, category: type[Warning]) -> None:
    """A warning as code of this module raises it."""
    exec("import warnings; warnings.warn('old', category)", {"__name__": module, "category": category})

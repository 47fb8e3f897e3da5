"""Claims: one tree, a docstring each, user mistakes are ValueErrors, batch errors say where."""

import inspect

import pytest

from forwardcache import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_in_the_tree_with_a_docstring_of_its_own(error: type[Exception]) -> None:
    assert issubclass(error, errors.ForwardCacheError)
    assert error.__doc__ is not None
    assert all(error.__doc__ != parent.__doc__ for parent in error.__mro__[1:])


def test_every_error_of_the_module_is_public_and_listed_in_its_docstring() -> None:
    classes = inspect.getmembers(errors, inspect.isclass)
    found = {name for name, each in classes if each.__module__ == errors.__name__}
    assert found == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in found)


@pytest.mark.parametrize("error", CLASSES)
def test_every_user_mistake_is_a_value_error(error: type[Exception]) -> None:
    no_mistake = {
        errors.ForwardCacheError,
        errors.EngineStateError,
        errors.InterruptedRunError,
        errors.MachineError,
        errors.MissingExtraError,
        errors.ModelMemoryError,
        errors.NonFiniteError,
        errors.WorkerError,
    }
    assert issubclass(error, ValueError) == (error not in no_mistake)


def test_a_view_out_of_force_is_also_a_runtime_error() -> None:
    assert issubclass(errors.StaleViewError, RuntimeError)
    assert issubclass(errors.NestedViewError, RuntimeError)


def test_an_error_outside_a_batch_has_no_position() -> None:
    error = errors.EmptyPromptError("empty")
    assert error.index is None
    assert error.results is None

"""The exception tree: kinds, attributes, messages, pickling."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from fastcas import errors

DIGEST = "sha256:" + "0" * 64

KINDS = {
    errors.NotExistError: (FileNotFoundError,),
    errors.InvalidError: (ValueError,),
    errors.CorruptError: (errors.InvalidError,),
    errors.DigestMismatchError: (errors.CorruptError,),
    errors.SizeMismatchError: (errors.CorruptError,),
    errors.UnknownTypeError: (),
    errors.UnsupportedError: (NotImplementedError,),
    errors.UnknownAlgorithmError: (errors.UnknownTypeError, NotImplementedError),
    errors.ClobberError: (FileExistsError,),
    errors.ClosedError: (ValueError,),
    errors.DurabilityError: (OSError,),
}


def make(cls):
    extra = {}
    if issubclass(cls, (errors.DigestMismatchError, errors.SizeMismatchError)):
        extra = {"expected": 1, "actual": 2}
    if issubclass(cls, errors.DurabilityError):
        extra = {"errno": errno.EIO}
    if issubclass(cls, errors.UnknownTypeError):
        extra = {"media_type": "m", "algorithm": "a"}
    return cls("it went wrong", digest=DIGEST, path="/a/b", **extra), extra


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_kind_and_builtin(cls):
    error, _ = make(cls)
    assert isinstance(error, errors.FastCASError)
    for base in KINDS[cls]:
        assert isinstance(error, base)


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("way", ["made", "pickled", "copied"])
def test_attributes(cls, way):
    error, extra = make(cls)
    error.note = "set later"
    if way == "pickled":
        error = pickle.loads(pickle.dumps(error))
    elif way == "copied":
        error = copy.copy(error)
    assert type(error) is cls
    assert str(error) == "it went wrong"
    assert error.args == ("it went wrong",)
    assert (error.digest, error.path, error.note) == (DIGEST, "/a/b", "set later")
    for name, value in extra.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize("way", ["made", "pickled"])
def test_errno_of_the_system_kinds(way):
    for cls, number in {
        errors.NotExistError: errno.ENOENT,
        errors.ClobberError: errno.EEXIST,
        errors.DurabilityError: errno.EIO,
    }.items():
        error, _ = make(cls)
        if way == "pickled":
            error = pickle.loads(pickle.dumps(error))
        assert error.errno == number
        assert error.filename == "/a/b"
        assert error.strerror


def test_path_and_digest_are_optional():
    error = errors.NotExistError("no")
    assert (error.digest, error.path, error.filename) == (None, None, None)
    assert repr(error) == "NotExistError('no')"

"""``speechde soup``."""

from __future__ import annotations

import pytest

from speechde.checkpoint.folder import TrainedModel


def test_a_soup_is_a_model_folder(run, models, tmp_path):
    done = run("soup", models.continuous, models.continuous, "--weights", "2,1", "--out", tmp_path / "soup")
    fingerprint = TrainedModel.load(models.continuous).fingerprint
    assert done.code == 0 and done.out == f"{tmp_path / 'soup'}: the mean of 2 models, {fingerprint}\n"
    embedded = run("embed", "-", "-m", tmp_path / "soup", "-o", tmp_path / "v.parquet", stdin=b"un chat\n")
    assert embedded.code == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["{m.continuous}", "--weights", "1;2"], 2, "'1;2' is no list of numbers; write --weights 2,1,1"),
        (["{m.continuous}", "--weights", "1,2"], 2, "2 weights for 1 models"),
        (["{m.continuous}", "{m.another}"], 2, "cannot be averaged with"),
        (["{m.continuous}/none"], 1, "does not exist"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_arguments_leave_nothing(run, models, tmp_path, options, code, message):
    done = run("soup", *(option.format(m=models) for option in options), "--out", tmp_path / "soup")
    assert done.code == code and message in done.err and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched(run, models, tmp_path):
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup/mine").touch()
    done = run("soup", models.continuous, "--out", tmp_path / "soup")
    assert done.code == 1 and "is not empty; delete it" in done.err
    assert [path.name for path in (tmp_path / "soup").iterdir()] == ["mine"]

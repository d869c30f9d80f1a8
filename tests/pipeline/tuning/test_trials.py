"""The records of trials, where a search was moved or damaged."""

import json

import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.tuning import written_down


@pytest.fixture
def book(tmp_path):
    """Write the record of a finished trial that lay in another folder."""
    path = tmp_path / "moved" / "trials" / "one" / "trial.json"
    path.parent.mkdir(parents=True)
    checkpoint = "/runs/trials/search/trials/one/checkpoints/step-000000002"
    path.write_text(json.dumps({"name": "one", "changes": {}, "checkpoint": checkpoint}))
    return path


def test_checkpoints_of_a_moved_search_are_found_where_it_is_now(book, tmp_path):
    found = written_down(str(tmp_path / "moved"))["one"]
    assert found.checkpoint == str(book.parent / "checkpoints" / "step-000000002")


@pytest.mark.parametrize("text", ["", "[]", '{"name": "one"}'])
def test_a_damaged_record_is_refused_by_its_name(book, tmp_path, text):
    book.write_text(text)
    with pytest.raises(UserError, match=rf"{book} is damaged: .*; delete it"):
        written_down(str(tmp_path / "moved"))

"""Paths that nodes must see, and the sentences of actors that do not."""

import pytest

from infill.pipeline.error_sentences import explain, sentences_in
from infill.pipeline.errors import UserError
from infill.pipeline.shared_folders import require_seen, seen_here


def test_only_local_paths_that_exist_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    found = seen_here("run", "", "s3://bucket/run", str(tmp_path / "nowhere"), "bundled")
    assert found == (str(tmp_path / "run"),)
    require_seen((*found, "s3://bucket/run", "relative"))
    (tmp_path / "run").rmdir()
    said = f"the node .* does not see {tmp_path}/run, as this command's machine does: give a folder"
    with pytest.raises(UserError, match=said):
        require_seen(found)


def test_sentences_of_actors_that_cannot_begin_are_found_in_their_text():
    from ray.exceptions import ActorDiedError, RayTaskError

    cause = RayTaskError(
        "Scorer.__init__",
        "Traceback (most recent call last):\n  File ...\n"
        "infill.pipeline.errors.UserError: the node a does not see /b: share it\n",
        UserError("the node a does not see /b: share it"),
    )
    died = ActorDiedError(cause)
    assert "creation task" in str(died)
    assert explain(died) == "the node a does not see /b: share it"
    assert sentences_in("ValueError: infill.pipeline.errors.UserError: no line of its own") == []

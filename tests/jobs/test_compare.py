def test_missing_evaluation_is_one_sentence(tmp_path, run_job):
    ended = run_job("compare", "--evaluations", tmp_path, tmp_path)
    assert ended.returncode == 1
    assert "holds no finished evaluation" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1

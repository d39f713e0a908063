import os

import pytest

from mlflow_phi3.files import folder_bytes, link_or_copy


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_a_second_name_or_is_copied(tmp_path, monkeypatch, links):
    def refuse(_source, _target):
        raise OSError("no links on this disk")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "weights", tmp_path / "best"
    source.write_bytes(b"1234")

    link_or_copy(str(source), str(target))

    assert target.read_bytes() == b"1234"
    assert target.samefile(source) == links


def test_a_folder_weighs_what_its_files_do(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "deep" / "er" / "two").write_bytes(b"22")

    assert folder_bytes(tmp_path) == 3

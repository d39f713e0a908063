"""Content-addressed names: another content is another version."""

from mlflow_phi3.azure.assets import digest_folder


def test_a_digest_tells_names_and_where_a_file_ends_from_each_other(tmp_path):
    def digest(number, **files):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        return digest_folder(folder)

    contents = ({"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}, {"a": "xy", "c": "z"}, {"a": "xyz"})
    assert len({digest(number, **files) for number, files in enumerate(contents)}) == 4
    assert digest("again", **contents[0]) == digest("once more", **contents[0])

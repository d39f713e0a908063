import os
import platform

from mlflow_phi3.scratch import scratch_folder


def test_a_scratch_folder_goes_and_takes_those_of_the_dead_with_it(tmp_path):
    here = platform.node()
    dead, alive, elsewhere = (
        tmp_path / f".register.{name}.partial"
        for name in (f"{2**30}.{here}", f"{os.getppid()}.{here}", f"{2**30}.not-{here}")
    )
    for folder in (dead, alive, elsewhere):
        folder.mkdir()

    with scratch_folder(tmp_path, "register") as scratch:
        (scratch / "weights").write_bytes(b"1234")
        assert {*tmp_path.iterdir()} == {alive, elsewhere, scratch}
    assert {*tmp_path.iterdir()} == {alive, elsewhere}

import os
import socket

from mlflow_phi3.scratch import machine_name, scratch_folder


def test_a_scratch_folder_goes_and_takes_those_of_the_dead_with_it(tmp_path):
    here, other_container = machine_name(), f"{socket.gethostname()}-4026599999"
    assert here != socket.gethostname()
    dead, alive, elsewhere, contained = (
        tmp_path / f".register.{name}.partial"
        for name in (
            f"{2**30}.{here}",
            f"{os.getppid()}.{here}",
            f"{2**30}.not-{here}",
            f"{os.getpid()}.{other_container}",
        )
    )
    for folder in (dead, alive, elsewhere, contained):
        folder.mkdir()

    with scratch_folder(tmp_path, "register") as scratch:
        (scratch / "weights").write_bytes(b"1234")
        assert {*tmp_path.iterdir()} == {alive, elsewhere, contained, scratch}
    assert {*tmp_path.iterdir()} == {alive, elsewhere, contained}

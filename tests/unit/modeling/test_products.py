"""Products of float32 on a CPU: as fast as the model allows, and no less exact."""

import pytest
import torch

from mlflow_phi3.modeling import hardware
from mlflow_phi3.modeling.hardware import fast_products


def allowed():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def maker(monkeypatch, tmp_path):
    def name(vendor):
        cpus = tmp_path / "cpuinfo"
        cpus.write_text(f"vendor_id\t: {vendor}\n")
        monkeypatch.setattr(hardware, "Path", lambda _: cpus)
        hardware._onednn_wins.cache_clear()

    yield name
    hardware._onednn_wins.cache_clear()


@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 64, 64), (300, 320, 960), (1, 864, 320)])
def test_float32_beside_a_float32_model_is_exact(maker, shape):
    maker("AuthenticAMD")  # wherever these tests run
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    with fast_products(torch.float32):
        found = [a @ b, torch.bmm(a[None], b[None])[0], torch.addmm(torch.zeros(columns), a, b)]
    exact = (a.double() @ b.double()).float()
    scale = (a.double().abs() @ b.double().abs()).float()
    assert all(float(((each - exact).abs() / scale).max()) < 1e-6 for each in found)


def test_other_makers_float32_is_left_alone(maker):
    maker("GenuineIntel")
    before = allowed()
    with fast_products(torch.float32):
        assert allowed() == before


def test_where_onednn_rounds_float32_is_left_alone(maker, monkeypatch):
    maker("AuthenticAMD")
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    before = allowed()
    with fast_products(torch.float32):
        assert allowed() == before


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_bfloat16_model_may_round_and_nobody_after_it(error):
    before = allowed()
    try:
        with fast_products(torch.bfloat16):
            assert allowed() == "bf16"
            if error:
                raise error
    except RuntimeError:
        pass
    assert allowed() == before

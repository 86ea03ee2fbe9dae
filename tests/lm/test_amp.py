"""Mixed precision: dtypes, the scaler's logic, and runs in every precision."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
import torch
from accelerate import Accelerator
from support.lm_runs import finished_run, lines, tiny_config

import lm.train
from lm.config import TargetConfig
from lm.device.amp import AUTOCAST, SMALLEST_SCALE, Amp
from lm.errors import RunError
from lm.policy import CausalPolicy, load_policy
from lm.train import train

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    ],
)
DEVICES = ["cpu", CUDA]


def _model(device: str, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(0)
        return torch.nn.Linear(8, 8).to(device, dtype)


def _step(amp: Amp, *, overflow: bool, wrapped: bool, device: str):
    """Do one step of fused Adam on a linear map; return its norm, verdict, weights, state."""
    accelerator = Accelerator(cpu=device == "cpu")
    model = _model(device, amp.weights_dtype)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.1, fused=True)
    optimizer = accelerator.prepare(optimizer) if wrapped else optimizer
    with amp.autocast():
        values = model(torch.ones(4, 8, device=device, dtype=amp.weights_dtype))
    loss = values.to(amp.weights_dtype).square().mean()
    amp.backward(accelerator, loss * (1e38 if overflow else 1.0))
    norm = amp.clip(accelerator, optimizer, parameters, 100.0)
    made = amp.step(optimizer)
    return float(norm), made, model, optimizer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_overflow_skips_the_step_and_halves_the_scale(wrapped, device):
    amp = Amp("float16", device)
    start = amp.scale
    before = _model(device).state_dict()
    # 1e38 times the scale of 65536 is beyond float32: the scaled gradient is infinite.
    norm, made, model, optimizer = _step(amp, overflow=True, wrapped=wrapped, device=device)
    assert not made
    assert not math.isfinite(norm)
    assert amp.scale == start / 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # Adam, too, is where it was: no moment has taken up an infinity, no step is counted.
    for state in optimizer.state.values():
        assert all(not torch.any(torch.as_tensor(value)) for value in state.values())
    _, made, model, _ = _step(amp, overflow=False, wrapped=wrapped, device=device)
    assert made
    assert amp.scale == start / 2
    assert not torch.equal(model.weight, before["weight"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", AUTOCAST)
def test_the_norm_is_that_of_the_unscaled_gradient(precision, device):
    exact = _step(Amp("float64", device), overflow=False, wrapped=False, device=device)
    norm, made, model, _ = _step(
        Amp(precision, device), overflow=False, wrapped=True, device=device
    )
    # Unit roundoffs of the products' dtype, with room for a sum of 8 and a square.
    tolerance = {"float64": 1e-14, "float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}[precision]
    assert made
    assert norm == pytest.approx(exact[0], rel=tolerance)
    # The first step of Adam is lr times the sign of the gradient, in every precision.
    assert torch.allclose(model.weight.double(), exact[2].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", AUTOCAST)
def test_products_and_weights_have_the_dtypes_that_the_name_says(precision):
    amp = Amp(precision, "cpu")
    model = _model("cpu", amp.weights_dtype)
    with amp.autocast():
        values = model(torch.ones(2, 8, dtype=amp.weights_dtype))
    assert values.dtype == getattr(torch, precision)
    assert amp.weights_dtype == (torch.float64 if precision == "float64" else torch.float32)


def test_float16_always_has_a_scaler_and_nothing_else_has():
    assert {name: Amp(name, "cpu").scales for name in AUTOCAST} == {
        "float64": False,
        "float32": False,
        "bfloat16": False,
        "float16": True,
    }
    assert Amp("float16", "cpu").scale > 1.0
    assert Amp("bfloat16", "cpu").scale == 1.0


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="there are: float64, float32, bfloat16, float16"):
        _ = Amp("int8", "cpu")


def test_a_gradient_that_no_scale_saves_stops_the_run_with_advice():
    amp = Amp("float16", "cpu")
    amp.load_state_dict({**amp.state_dict(), "scale": SMALLEST_SCALE})
    accelerator, model = Accelerator(cpu=True), _model("cpu")
    optimizer = torch.optim.Adam(model.parameters())
    amp.backward(accelerator, model.weight.sum() * torch.inf)
    _ = amp.clip(accelerator, optimizer, list(model.parameters()))
    with pytest.raises(RunError, match="choose --precision bfloat16"):
        _ = amp.step(optimizer)


def test_the_scalers_state_survives_json():
    amp = Amp("float16", "cpu")
    _ = _step(amp, overflow=True, wrapped=False, device="cpu")
    _ = _step(amp, overflow=False, wrapped=False, device="cpu")
    stored = json.loads(json.dumps(amp.state_dict()))
    again = Amp("float16", "cpu")
    again.load_state_dict(stored)
    assert again.state_dict() == amp.state_dict()
    assert again.scale == Amp("float16", "cpu").scale / 2
    # One step was taken since the overflow: the growth of the scale goes on from there.
    assert stored["_growth_tracker"] == 1
    for other in (Amp("bfloat16", "cpu"), Amp("float32", "cpu")):
        assert other.state_dict() == {}
        other.load_state_dict({})
        with pytest.raises(ValueError, match="has the state of a gradient scaler"):
            other.load_state_dict(stored)
    with pytest.raises(ValueError, match="has no gradient scaler"):
        again.load_state_dict({})


@pytest.mark.parametrize("device", DEVICES)
def test_sampling_without_gradients_in_the_same_context_takes_no_gradient_away(device):
    # autocast keeps a weight's half-precision copy; one made under no_grad leads nowhere.
    model = _model(device)
    inputs = torch.ones(2, 8, device=device)
    with Amp("bfloat16", device).autocast():
        with torch.no_grad():
            _ = model(inputs)
        loss = model(inputs).float().sum()
    loss.backward()
    assert model.weight.grad is not None


REWARD = TargetConfig(kind="reward_tilted", reward={"letters": -0.5}, beta=1.0)


@pytest.fixture
def _no_report(monkeypatch):
    monkeypatch.setattr(lm.train, "finish_run", lambda _: None)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("precision", "target"),
    [("float64", None), ("bfloat16", None), ("float16", None), ("bfloat16", REWARD)],
)
def test_a_run_trains_in_every_precision(precision, target, tmp_path, monkeypatch):
    reference = lines(finished_run(), "step")
    seen = set()
    ours = CausalPolicy.log_prob

    def log_prob(self, tokens, mask, **options):
        with _products(self) as dtypes:
            scored = ours(self, tokens, mask, **options)
        if scored.requires_grad:
            seen.update({("products", *dtypes), ("scores", scored.dtype)})
        return scored

    monkeypatch.setattr(CausalPolicy, "log_prob", log_prob)
    changes = {} if target is None else {"target": target}
    config = tiny_config(tmp_path / "run", precision=precision, **changes)
    folder = train(config)
    wide = torch.float64 if precision == "float64" else torch.float32
    # The products in the precision that was asked for, softmax and sums wider.
    assert seen == {("products", getattr(torch, precision)), ("scores", wide)}
    steps = lines(folder, "step")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    policy = load_policy(folder / "policy")
    assert next(policy.model.parameters()).dtype == wide
    # Adam moved every weight matrix, by some share of its learning rate of 1e-3 a step.
    base = load_policy(config.model or "", dtype=wide)
    moved = [
        float((new - old).abs().max())
        for new, old in zip(policy.model.parameters(), base.model.parameters(), strict=True)
    ]
    assert 1e-4 < min(moved) <= max(moved) < 1e-2
    if target is None and steps[0]["gradient_norm"] is not None:
        # One step from the same weights as in float32, and in float16 without the scale. A few of
        # 32 samples differ: a uniform near an edge of the distribution falls to its other side.
        tolerance = {"float64": 1e-3, "bfloat16": 0.3, "float16": 0.1}[precision]
        expected = pytest.approx(reference[0]["gradient_norm"], rel=tolerance)
        assert steps[0]["gradient_norm"] == expected


@contextlib.contextmanager
def _products(policy):
    """Collect the dtypes that the model's linear layers return."""
    dtypes = set()
    layer = policy.model.transformer.h[0].mlp.c_fc
    hook = layer.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    try:
        yield dtypes
    finally:
        hook.remove()

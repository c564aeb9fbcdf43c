"""torch.compile(backend="fxpasses")."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from fxpasses.codegen.backend import fxpasses
from fxpasses.errors import RunError


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, offset=0):
        self.calls += 1
        return torch.relu(self.linear(x)) * self.calls + offset, x.view(-1)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def pair(**options):
    model = Model()
    return model, torch.compile(copy.deepcopy(model), backend="fxpasses", **options)


def test_inference_buffers_and_views():
    eager, compiled = pair()
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(3, 8)
            (want, _), (got, view) = eager(x), compiled(x)
            torch.testing.assert_close(got, want)
            view.zero_()
            assert not x.any()  # a view of the argument, as in eager
    assert compiled._orig_mod.calls == 3


def test_varying_sizes():
    eager, compiled = pair(dynamic=True)
    with torch.no_grad():
        for rows in (3, 5, 1, 12):
            x = torch.randn(rows, 8)
            torch.testing.assert_close(compiled(x)[0], eager(x)[0])


def test_training_follows_eager():
    eager, compiled = pair()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (eager, compiled)]
    for _ in range(3):
        x, target = torch.randn(6, 8), torch.randn(6, 4)
        losses = []
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x)[0], target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(compiled._orig_mod.linear.weight, eager.linear.weight)


def test_batch_norm_and_dropout_train():
    eager = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
    )
    compiled = torch.compile(copy.deepcopy(eager), backend="fxpasses", fullgraph=True)
    for seed in range(2):
        x = torch.randn(5, 6)
        for model in (eager, compiled):
            torch.manual_seed(seed)  # the same elements are dropped
            model.zero_grad()
            model(x).square().sum().backward()
        for (name, want), got in zip(eager.named_parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(got.grad, want.grad, msg=name)
    for (name, want), got in zip(eager.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(got, want, msg=name)


@pytest.mark.parametrize("heads", [4, 2], ids=["heads", "shared heads"])
@pytest.mark.parametrize("mask", [None, "causal", "rows that admit nothing"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_attention_trains(dtype, mask, heads):
    torch.manual_seed(0)
    keep = torch.ones(5, 7, dtype=torch.bool).tril() & (torch.arange(5)[:, None] != 2)
    tensors = [torch.randn(2, heads if i else 4, 7 if i else 5, 8, dtype=dtype) for i in range(3)]
    upstream = torch.randn(2, 4, 5, 8, dtype=dtype)

    def attention(query, key, value):
        given = {"is_causal": True} if mask == "causal" else {"attn_mask": None if mask is None else keep}
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, enable_gqa=heads == 2, **given
        )

    def gradients(function):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(function(*leaves), leaves, upstream)

    compiled = torch.compile(attention, backend="fxpasses", fullgraph=True, options={"strict": True})
    torch.testing.assert_close(gradients(compiled), gradients(attention), **_TOLERANCE.get(dtype, {}))


# Eager's kernel rounds the weights, too.
_TOLERANCE = {torch.bfloat16: {"rtol": 0.02, "atol": 0.02}}


def test_weights_changed_in_place_are_seen():
    eager, compiled = pair()
    x = torch.randn(2, 8)
    with torch.no_grad():
        compiled(x), eager(x)
        for model in (eager, compiled._orig_mod):
            model.linear.weight.mul_(2)
        torch.testing.assert_close(compiled(x)[0], eager(x)[0])


@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_what_the_model_demands_of_values():
    def model(x):
        torch._assert_async((x < 9).all(), "too large")
        count = x.sum().int().item()
        torch._check(count > 2)
        return x + count

    compiled = torch.compile(model, backend="fxpasses")
    torch.testing.assert_close(compiled(torch.ones(3)), model(torch.ones(3)))
    for bad in (torch.zeros(3), torch.full((3,), 9.0)):
        with pytest.raises(RuntimeError):
            model(bad)
        with pytest.raises(RunError):
            compiled(bad)


def written_behind_a_break(x):
    y = x * 2
    view, part = y.view(-1), y.t()[1]
    torch._dynamo.graph_break()
    view.mul_(3)
    part.add_(1)
    return y


def parts_behind_a_break(x):
    first, second = (x.t() * 2).split([1, 2])
    whole = second.unsqueeze(0)
    torch._dynamo.graph_break()
    first.zero_()
    second.add_(1)
    return first, whole


@pytest.mark.parametrize("model", [written_behind_a_break, parts_behind_a_break])
def test_results_that_are_views_of_each_other_share_memory(model):
    x = torch.randn(4, 3)
    got, want = torch.compile(model, backend="fxpasses")(x), model(x)
    torch.testing.assert_close(got, want)


def scaled(x, other, factor):
    return torch.sub(x, other, alpha=factor), torch.add(x, x, alpha=factor)


@pytest.mark.parametrize("others", [((2.5, 3), (1.5, 7)), ((2, 3), (4, 5)), ((2.5, 3.5), (0.5, 1.5))])
def test_numbers_that_vary_keep_alpha(others):
    """AOT autograd makes tensors of them; its own backend in eager PyTorch loses alpha."""
    compiled = torch.compile(scaled, backend="fxpasses", dynamic=True)
    for numbers in others:
        x = torch.randn(3)
        torch.testing.assert_close(compiled(x, *numbers), scaled(x, *numbers))


def test_a_graph_of_numbers_alone():
    compiled = torch.compile(lambda n: 2 * n + 1, backend="fxpasses", dynamic=True)
    assert [compiled(n) for n in (3, 5)] == [7, 11]


def test_a_graph_break_and_a_constant_tensor():
    table = torch.tensor([1.0, 2.0, 3.0])

    def function(x):
        y = x + table
        torch._dynamo.graph_break()
        return y * torch.tensor([4.0, 5.0, 6.0])

    compiled = torch.compile(function, backend="fxpasses")
    x = torch.randn(3)
    torch.testing.assert_close(compiled(x), function(x))


def test_an_empty_result_may_be_resized():
    """Dynamo breaks the graph at `out=` of another size, and PyTorch makes the empty tensor larger."""

    def function(x):
        out = torch.empty(0)
        torch.add(x, 1, out=out)
        return out

    compiled = torch.compile(function, backend="fxpasses")
    x = torch.randn(3)
    torch.testing.assert_close(compiled(x), function(x))


def test_options():
    def function(x):
        return torch.special.bessel_j0(x)

    x = torch.randn(3)
    compiled = torch.compile(function, backend="fxpasses", options={"strict": False})
    torch.testing.assert_close(compiled(x), function(x))
    torch._dynamo.reset()
    with pytest.raises(Exception, match="special_bessel_j0"):
        torch.compile(function, backend="fxpasses", options={"strict": True})(x)
    with pytest.raises(TypeError, match="no option 'speed'"):
        fxpasses(torch.fx.symbolic_trace(function), [x], options={"speed": "high"})


def test_the_name_is_found_without_importing_the_package():
    script = "import torch; assert 'fxpasses' in torch._dynamo.list_backends()"
    subprocess.run([sys.executable, "-c", script], check=True)

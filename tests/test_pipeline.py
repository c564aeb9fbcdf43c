"""`Pipeline`: history, hook, failures with a reproducer."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import PassError, VerificationError
from fxpasses.interop import graph_module_pass
from fxpasses.pipeline import Pipeline, verify_each
from tests.passes.helpers import aten, program_of

X = torch.randn(2, 3)


def program():
    return program_of(lambda x: x.relu().relu() + x * 1, X)


def same(program):
    return program


def claims_a_change(program):
    return program.edit().finish()


def breaks(program):
    raise ValueError("no luck")


def test_history_tells_what_each_pass_did():
    pipeline = Pipeline(
        fxp.passes.normalize_kwargs, fxp.passes.explicit_promotion, fxp.passes.remove_noops, same
    )
    after, history = pipeline.run(program())
    assert [step.name for step in history] == [
        "normalize_kwargs",
        "explicit_promotion",
        "remove_noops",
        "same",
    ]
    noops = history[2]
    assert (noops.nodes_before, noops.nodes_after, noops.added, noops.removed) == (4, 3, 0, 1)
    assert noops.modified
    assert not history[3].modified
    assert history.milliseconds >= noops.milliseconds > 0
    assert "remove_noops" in str(history)
    torch.testing.assert_close(after(X), program()(X))


def test_modified_is_computed_not_claimed():
    _, history = Pipeline(claims_a_change).run(program())
    assert not history[0].modified


def test_a_pipeline_is_a_pass():
    inner = Pipeline(fxp.passes.remove_noops, name="tidy")
    _, history = Pipeline(fxp.passes.normalize_kwargs, inner).run(program())
    assert [step.name for step in history] == ["normalize_kwargs", "tidy"]
    assert repr(Pipeline(same, inner)) == "Pipeline(same, tidy)"


def test_the_hook_sees_before_pass_after_and_its_number_is_kept():
    seen = []

    def hook(before, pass_, after):
        seen.append((before.fingerprint, pass_, after.fingerprint))
        return 0.25

    start = program()
    _, history = Pipeline(same, claims_a_change, hook=hook).run(start)
    assert [pass_ for _, pass_, _ in seen] == [same, claims_a_change]
    assert seen[0][0] == start.fingerprint
    assert [step.difference for step in history] == [0.25, 0.25]


def test_verify_each_names_the_pass():
    def drop_value(program):
        g = program.edit()
        del g.nodes(aten.relu.default)[0].meta["val"]
        return g.finish()

    with pytest.raises(PassError, match="pass 'drop_value' failed: VerificationError") as caught:
        Pipeline(same, drop_value, hook=verify_each()).run(program())
    assert isinstance(caught.value.__cause__, VerificationError)


def test_a_failing_pass_leaves_a_reproducer(tmp_path):
    pipeline = Pipeline(fxp.passes.normalize_kwargs, breaks, reproducers=tmp_path)
    with pytest.raises(PassError, match=r"pass 'breaks' failed: ValueError: no luck[\s\S]*reproduce.py"):
        pipeline.run(program())
    assert "aten.relu.default" in (tmp_path / "before.txt").read_text()
    run = subprocess.run(
        [sys.executable, tmp_path / "reproduce.py"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "ValueError: no luck" in run.stderr


def test_what_is_no_pass_is_refused():
    with pytest.raises(TypeError, match="a pass is a callable Program -> Program, got 3 of type int"):
        Pipeline(3)
    with pytest.raises(PassError, match="this one returned NoneType"):
        Pipeline(lambda program: None)(program())


# -- passes of other tools ---------------------------------------------------------------


def in_place_dead_code(module):
    module.graph.eliminate_dead_code()
    module.recompile()


def relu_to_clamp(module):
    for node in module.graph.find_nodes(op="call_function", target=aten.relu.default):
        with module.graph.inserting_before(node):
            new = module.graph.call_function(aten.clamp_min.default, (node.args[0], 0))
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    module.recompile()
    return module


def test_graph_module_passes_take_part():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    start = program_of(model, X)
    after, history = Pipeline(
        graph_module_pass(in_place_dead_code), graph_module_pass(relu_to_clamp), hook=verify_each()
    ).run(start)
    assert [step.name for step in history] == ["in_place_dead_code", "relu_to_clamp"]
    assert aten.clamp_min.default in {node.target for node in after.graph.nodes}
    assert after.tensors["0.weight"] is start.tensors["0.weight"]
    torch.testing.assert_close(after(X), model(X))
    assert [n.meta["role"] for n in after.placeholders] == [n.meta["role"] for n in start.placeholders]


def test_subgraph_rewriter_of_torch_takes_part():
    from torch.fx import subgraph_rewriter

    def pattern(x):
        return torch.ops.aten.relu.default(torch.ops.aten.relu.default(x))

    def replacement(x):
        return torch.ops.aten.relu.default(x)

    def merge(module):
        subgraph_rewriter.replace_pattern(module, pattern, replacement)

    after = Pipeline(graph_module_pass(merge), hook=verify_each())(program())
    assert sum(node.target is aten.relu.default for node in after.graph.nodes) == 1


def test_a_pass_that_adds_an_output_is_refused():
    def more(module):
        output = module.graph.output_node()
        output.args = ((*output.args[0], output.args[0][0]),)

    with pytest.raises(PassError, match="the pass changed the number of outputs"):
        Pipeline(graph_module_pass(more))(program())


def test_a_pass_that_leaves_a_module_call_is_refused():
    def module_call(module):
        module.add_module("extra", torch.nn.ReLU())
        output = module.graph.output_node()
        with module.graph.inserting_before(output):
            call = module.graph.call_module("extra", (output.args[0][0],))
        output.args = ((call,),)

    with pytest.raises(PassError, match="left the call_module .*extra"):
        Pipeline(graph_module_pass(module_call))(program())


def test_to_graph_module_is_an_ordinary_one():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    module = program_of(model, X).to_graph_module()
    assert isinstance(module, torch.fx.GraphModule)
    assert set(module.state_dict()) == {"0.weight", "0.bias"}
    assert {node.op for node in module.graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}
    torch.testing.assert_close(module(X)[0], model(X))
    torch.testing.assert_close(torch.fx.Interpreter(module).run(X)[0], model(X))

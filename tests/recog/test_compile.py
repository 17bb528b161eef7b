"""torch.export with dynamic height and width, and compilation without a graph break."""

from __future__ import annotations

import pytest
import torch
from recog.images import network
from torch._dynamo.testing import CompileCounter


@pytest.mark.parametrize(("pooling", "rope"), [("map", "mixed"), ("avg", "axial")])
def test_one_exported_program_for_all_sizes(pooling, rope):
    net = network(pooling, rope).eval()
    # torch specializes a side of one patch, so it needs at least two
    dims = {2: torch.export.Dim("height", min=9, max=512), 3: torch.export.Dim("width", min=9, max=512)}
    program = torch.export.export(net, (torch.randn(2, 3, 40, 72),), dynamic_shapes=(dims,)).module()
    for size in ((40, 72), (64, 64), (33, 90), (9, 200)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)


def test_three_sizes_need_at_most_one_recompilation():
    torch._dynamo.reset()
    net, counter = network().eval(), CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    with torch.no_grad():
        for size in ((40, 72), (64, 64), (32, 96)):
            x = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 2

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
    dims = {0: torch.export.Dim("batch", min=2, max=64)}
    dims |= {2: torch.export.Dim("height", min=9, max=512), 3: torch.export.Dim("width", min=9, max=512)}
    program = torch.export.export(net, (torch.randn(2, 3, 40, 72),), dynamic_shapes=(dims,)).module()
    for batch, size in ((2, (40, 72)), (3, (64, 64)), (7, (33, 90)), (2, (9, 200))):
        x = torch.randn(batch, 3, *size)
        torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)


def test_three_sizes_need_at_most_one_recompilation():
    torch._dynamo.reset()
    net, counter = network().eval(), CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    with torch.no_grad():
        for batch, size in ((2, (40, 72)), (3, (64, 64)), (4, (32, 96))):
            x = torch.randn(batch, 3, *size)
            torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 2


def test_patches_of_naflex_are_exported_with_their_mask():
    net = network().eval()
    x = {"patches": torch.randn(3, 12, 192), "patch_coord": torch.cartesian_prod(torch.arange(3), torch.arange(4))}
    x = {**x, "patch_coord": x["patch_coord"].expand(3, -1, -1), "patch_valid": torch.ones(3, 12, dtype=torch.bool)}
    batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("length", min=2, max=512)
    shapes = {name: {0: batch, 1: length} for name in x}
    program = torch.export.export(net, (x,), dynamic_shapes=(shapes,)).module()
    padded = {name: torch.cat([value[:2], torch.zeros_like(value[:2, :3])], dim=1) for name, value in x.items()}
    expected = net({name: value[:2] for name, value in x.items()})
    torch.testing.assert_close(program(padded), expected, rtol=1e-4, atol=1e-5)

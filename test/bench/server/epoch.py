#!/usr/bin/python3
"""One epoch of second-order meta-training in PyTorch, the rows already in memory.

  epoch.py TORCH_LIMAML MEMBERS ROWS

Runs the peer's meta-gradient (torch_limaml.py train, given by its path) over MEMBERS tasks of ROWS rows, half of them
support rows, in batches of 64, with Adam's step after each.  Prints the seconds it took.
"""
import importlib.util, sys, time
import torch

spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
peer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)
members, rows = int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
n, batch = rows // 2, 64
meta, glob = peer.parameters([1, 64, 32, 16]), peer.parameters([16 + 32, 64, 32, 1])
leaves = [t.detach().requires_grad_() for t in meta + glob]
optimizer = torch.optim.Adam(leaves, lr=1e-3)
X, Z, Y = torch.zeros(batch, 1), torch.randn(batch, n, 32), torch.randint(0, 2, (batch, n)).float()


def task(meta, glob, x, z, y, zq, yq):
    return peer.loss(peer.adapted(meta, glob, x, z, y), glob, x, zq, yq)


tasks = peer.vmap(task, in_dims=(None, None, 0, 0, 0, 0, 0))


def step():
    optimizer.zero_grad()
    tasks(leaves[:len(meta)], leaves[len(meta):], X, Z, Y, Z, Y).mean().backward()
    optimizer.step()


step()
start = time.process_time()
measured = max(1, min(members // batch, 20))
for _ in range(measured):
    step()
print("%.3f" % ((time.process_time() - start) / measured * members / batch))

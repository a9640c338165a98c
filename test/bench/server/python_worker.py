#!/usr/bin/python3
"""A refresh as one would write it outside the database: COPY out, PyTorch's vmap, COPY in.

  python_worker.py MEMBERS

Reads the rows of members 1 ... MEMBERS through psql, adapts the small shape's meta block on them in batches of
64 members, as an expert would by torch.func, and copies the embeddings into a table.  Prints the seconds it took.
"""
import subprocess, sys, time
import numpy, torch
import torch.nn.functional as F

try:
    from torch.func import grad, vmap
except ImportError:
    from functorch import grad, vmap

torch.manual_seed(0)
members, width, meta_widths, global_widths = int(sys.argv[1]), 16, [1, 64, 32, 16], [16 + 32, 64, 32, 1]


def parameters(widths):
    return [p for i, o in zip(widths[:-1], widths[1:]) for p in (torch.randn(o, i) * (2 / i) ** 0.5, 0.1 * torch.randn(o))]


def mlp(params, h):
    for l in range(0, len(params), 2):
        h = F.linear(h, params[l], params[l + 1])
        if l + 2 < len(params):
            h = torch.relu(h)
    return h


def loss(meta, glob, x, z, y):
    e = mlp(meta, x)
    hidden = z @ glob[0][:, width:].T + (glob[1] + glob[0][:, :width] @ e)
    s = mlp(glob[2:], torch.relu(hidden))[:, 0]
    return (F.softplus(s) - y * s).mean()


def adapted(meta, glob, x, z, y):
    for _ in range(5):
        meta = [p - 0.1 * g for p, g in zip(meta, grad(loss)(meta, glob, x, z, y))]
    return mlp(meta, x)


def psql(sql, **options):
    return subprocess.run(["psql", "-XqAt", "-c", sql], check=True, **options)


psql("CREATE TABLE python_embedding (member_id integer, embedding real[])")
start = time.time()
columns = ", ".join(f"f{f}" for f in range(1, 33))
text = psql(f"COPY (SELECT member_id, clicked::integer, {columns} FROM impressions WHERE member_id <= {members} "
            "ORDER BY member_id, shown_at) TO STDOUT (DELIMITER ' ')", stdout=subprocess.PIPE).stdout
rows = numpy.fromstring(text, dtype=numpy.float32, sep=" ").reshape(-1, 34)
ids, counts = numpy.unique(rows[:, 0].astype(int), return_counts=True)
n = counts[0]
assert (counts == n).all()
y = torch.from_numpy(numpy.ascontiguousarray(rows[:, 1])).reshape(len(ids), n)
z = torch.from_numpy(numpy.ascontiguousarray(rows[:, 2:])).reshape(len(ids), n, 32)
meta, glob = parameters(meta_widths), parameters(global_widths)
x = torch.zeros(1)
one = vmap(lambda z, y: adapted(meta, glob, x, z, y))
embeddings = []
with torch.no_grad():
    for first in range(0, len(ids), 64):
        embeddings.append(one(z[first:first + 64], y[first:first + 64]))
embeddings = torch.cat(embeddings).numpy()
lines = "".join("%d\t{%s}\n" % (i, ",".join("%.9g" % v for v in e)) for i, e in zip(ids, embeddings))
psql("COPY python_embedding FROM STDIN", input=lines.encode())
print("%.3f" % (time.time() - start))

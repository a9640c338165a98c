"""A limaml network in PyTorch: reads and writes its file, scores and adapts.

Needs torch and numpy alone.  docs/pytorch.md shows its use; what the file
holds is described in src/model/trained_network.h.
"""

import copy
import json
import math
import warnings

import numpy
import torch
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
CLIP = 8.0
TABLE_KINDS = ("category", "categories")        # that have a table of vectors


# The file: 8 bytes with the header's length, the header, the numbers.

def read_safetensors(path):
    """The tensors of a file by their names, and its metadata."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        numbers = numpy.frombuffer(data[begin:end], dtype="<f4")
        tensors[name] = torch.from_numpy(numbers.copy()).reshape(entry["shape"])
    return tensors, metadata


def write_safetensors(path, tensors, metadata):
    """Tensors are written as 32-bit floats, and metadata are strings."""
    header = {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        numbers = tensor.detach().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    header = json.dumps(header, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + data)


# Rows to numbers.

MASK = 0xFFFFFFFF


def murmurhash32(h):
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16


def hash_integer(key):
    """How the server hashes a value of a category of integers."""
    low, high = murmurhash32(key & MASK), murmurhash32(key >> 32 & MASK)
    return low ^ (high + 0x9E3779B9 + (low << 6) + (low >> 2) & MASK)


def hash_bytes(key):
    """The same for text: PostgreSQL's hash_bytes, which is Jenkins' lookup3."""
    def rotate(x, k):
        return (x << k | x >> 32 - k) & MASK

    def word(at):
        return int.from_bytes(key[at:at + 4], "little")

    a = b = c = 0x9E3779B9 + len(key) + 3923095 & MASK
    at = 0
    while len(key) - at >= 12:
        a, b, c = (a + word(at) & MASK, b + word(at + 4) & MASK,
                   c + word(at + 8) & MASK)
        for k in (4, 6, 8, 16, 19, 4):
            a = a - c & MASK ^ rotate(c, k)
            a, b, c = b, c + b & MASK, a
        at += 12
    # the last word's lowest byte is left for the length
    a, b, c = (a + word(at) & MASK, b + word(at + 4) & MASK,
               c + (int.from_bytes(key[at + 8:at + 11], "little") << 8) & MASK)
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - rotate(b, k) & MASK
        a, b, c = b, c, a
    return b


def standardize(value, mean, sd):
    """A number in deviations from the mean; None and NaN are the mean."""
    if value is None or math.isnan(value):
        return 0.0
    return max(-CLIP, min(CLIP, (value - mean) / sd))


class Feature:
    """A column, as the network was trained to read it."""

    def __init__(self, description, vectors=None, wide=None):
        self.name = description["name"]
        self.description = description
        self.vectors = vectors          # of categories: a row per value
        self.wide = wide                # and a scalar; not of meta features
        if description["kind"] in TABLE_KINDS:
            self.rows = {value: row for row, value in
                         enumerate(description["vocabulary"], start=1)}
        elif description["kind"] not in ("numeric", "vector"):
            raise ValueError(f"feature {self.name}: unknown kind {description['kind']}")

    def row(self, value):
        """The table's row of a category's value."""
        if value is None:
            return 0
        if self.description["values"] == "integer":
            value = int(value)
        elif isinstance(value, bool):
            value = "true" if value else "false"
        if value in self.rows:
            return self.rows[value]
        hashed = hash_integer(value) if isinstance(value, int) else hash_bytes(value.encode())
        return 1 + len(self.rows) + hashed % self.description["outside"]

    def encode(self, value):
        """Its numbers, and what it adds to the score by itself."""
        kind = self.description["kind"]
        if kind in TABLE_KINDS:
            values = [value] if kind == "category" else [v for v in value or [] if v is not None]
            # of an array the mean; one without values is like None
            rows = [self.row(v) for v in values] or [0]
            return self.vectors[rows].mean(0), 0 if self.wide is None else self.wide[rows].mean()
        mean, sd = self.description["mean"], self.description["sd"]
        if kind == "vector":
            missing = value is None
            value = [None] * len(mean) if missing else value
            if len(value) != len(mean):
                raise ValueError(f"vector {self.name} has length {len(value)}, not {len(mean)}")
            numbers = [standardize(*element) for element in zip(value, mean, sd)]
        else:
            missing = value is None or math.isnan(value)
            numbers = [standardize(value, mean, sd)]
        if self.description["missing"]:
            numbers.append(float(missing))
        return torch.tensor(numbers, dtype=torch.double), 0


def make_linear(inputs, outputs):
    """A layer whose numbers are yet to be set."""
    with warnings.catch_warnings():
        # a block that reads nothing, and an empty factor part, are none to torch
        warnings.simplefilter("ignore")
        return nn.Linear(inputs, outputs, dtype=torch.double)


def block(widths, activation):
    """Linear layers with activations between them."""
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [make_linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def linear(sequential):
    return [layer for layer in sequential if isinstance(layer, nn.Linear)]


# A network that Python makes.

def numeric(name, values):
    """Describes a column of numbers, of which None and NaN are missing."""
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    return {"name": name, "kind": "numeric", "mean": float(numpy.mean(known)),
            "sd": float(numpy.std(known)) or 1.0, "missing": len(known) < len(values)}


def category(name, values, size=16):
    """Describes a column of integers or strings, each with a vector of this size."""
    vocabulary = sorted({v for v in values if v is not None})
    return {"name": name, "kind": "category", "size": size, "outside": 1, "vocabulary": vocabulary,
            "values": "integer" if all(isinstance(v, int) for v in vocabulary) else "text"}


def categories(name, arrays, size=16):
    """Describes a column of arrays of these, or of None."""
    values = [v for array in arrays if array is not None for v in array]
    return {**category(name, values, size), "kind": "categories"}


def vector(name, arrays):
    """Describes a column of arrays of numbers, all of one length, or of None."""
    elements = [numeric(name, column) for column in zip(*(a for a in arrays if a is not None))]
    return {"name": name, "kind": "vector", "mean": [e["mean"] for e in elements],
            "sd": [e["sd"] for e in elements], "missing": any(a is None for a in arrays)}


def describe(features, meta_features, embedding_size=32, factor_size=16, meta_hidden=(32,),
             global_hidden=(64, 32), **other):
    """What the file says of a network; other are options of limaml_train."""
    def width(columns):
        return sum(c["size"] if c["kind"] in TABLE_KINDS else
                   (len(c["mean"]) if c["kind"] == "vector" else 1) + c["missing"] for c in columns)

    return {
        "format": 1, "personalization": "limaml", "activation": "tanh", "loss": "binary",
        "adapts": "embedding", "inner_weighting": "sqrt", "inner_steps": 5, "recency": 100,
        "support_rows": 256, "options": {}, **other,
        "embedding_size": embedding_size, "factor_size": factor_size,
        "meta": [width(meta_features), *meta_hidden, embedding_size],
        "global": [embedding_size - factor_size + width(features), *global_hidden, 1],
        "features": features, "meta_features": meta_features,
    }


def initial_tensors(description, inner_rate=5.0):
    """Numbers for training to begin with."""
    tensors = {"inner_rate": torch.full((len(description["meta"]) - 1,), inner_rate)}

    def add(name, inputs, outputs, deviation):
        tensors[name + ".weight"] = torch.randn(outputs, inputs) * deviation
        tensors[name + ".bias"] = torch.zeros(outputs)

    for name in ("meta", "global"):
        widths = description[name]
        for l, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            add(f"{name}.{l}", inputs, outputs, max(inputs, 1) ** -0.5)
    concatenated = description["embedding_size"] - description["factor_size"]
    add("factor", description["global"][0] - concatenated, description["factor_size"], 0.03)
    for key, prefix in (("features", ""), ("meta_features", "meta.")):
        for column in description[key]:
            if column["kind"] in TABLE_KINDS:
                known = 1 + len(column["vocabulary"])
                vectors = torch.randn(known + column["outside"], column["size"]) * 0.1
                vectors[known:] = 0             # of values never seen
                tensors[f"{prefix}{column['name']}.embedding"] = vectors
                if not prefix:
                    tensors[f"{column['name']}.wide"] = torch.zeros(len(vectors))
    return tensors


class Network(nn.Module):
    """Both blocks, the factor part and the encoders, in double precision."""

    def __init__(self, description, tensors):
        super().__init__()
        if description["personalization"] not in ("limaml", "first_order", "none"):
            raise ValueError("entities of this network have no embedding: personalization is "
                             + description["personalization"])
        self.description = description
        activation = ACTIVATIONS[description["activation"]]
        self.meta = block(description["meta"], activation)
        self.global_ = block(description["global"], activation)
        self.factor = make_linear(description["global"][0] - self.concatenated,
                                  description["factor_size"])
        self.inner_rate = nn.Parameter(tensors["inner_rate"].double())
        for name, layer in self.layers():
            layer.weight = nn.Parameter(tensors[name + ".weight"].double())
            layer.bias = nn.Parameter(tensors[name + ".bias"].double())
        self.table_names = []
        self.tables = nn.ParameterList()
        self.features = self.make_features("features", "", tensors)
        self.meta_features = self.make_features("meta_features", "meta.", tensors)

    @property
    def concatenated(self):
        """Numbers of an embedding that enter the global block; the rest is the factor part."""
        return self.description["embedding_size"] - self.description["factor_size"]

    def layers(self):
        """Linear layers by the names that their tensors have in the file."""
        for name, sequential in (("meta", self.meta), ("global", self.global_)):
            for l, layer in enumerate(linear(sequential)):
                yield f"{name}.{l}", layer
        yield "factor", self.factor

    def make_features(self, key, prefix, tensors):
        features = []
        for description in self.description[key]:
            names = [f"{prefix}{description['name']}.{part}" for part in ("embedding", "wide")]
            learned = [nn.Parameter(tensors[name].double()) if name in tensors else None
                       for name in names]
            for name, parameter in zip(names, learned):
                if parameter is not None:
                    self.table_names.append(name)
                    self.tables.append(parameter)
            features.append(Feature(description, *learned))
        return features

    @classmethod
    def load(cls, path):
        tensors, metadata = read_safetensors(path)
        return cls(json.loads(metadata["limaml"]), tensors)

    def save(self, path):
        """A file for limaml_import; it needs no digest."""
        tensors = {"inner_rate": self.inner_rate}
        for name, layer in self.layers():
            tensors[name + ".weight"] = layer.weight
            tensors[name + ".bias"] = layer.bias
        tensors.update(zip(self.table_names, self.tables))
        # a database of no known encoding takes letters, but no escapes for them
        description = json.dumps(self.description, ensure_ascii=False)
        write_safetensors(path, tensors, {"format": "pt", "limaml": description})

    @staticmethod
    def encode(features, rows):
        """z, a row each, and the rows' offsets; rows are dicts of columns."""
        z, offset = [], []
        for row in rows:
            encoded = [feature.encode(row[feature.name]) for feature in features]
            z.append(torch.cat([numbers for numbers, _ in encoded])
                     if encoded else torch.zeros(0, dtype=torch.double))
            offset.append(sum(wide for _, wide in encoded) + torch.zeros((), dtype=torch.double))
        return torch.stack(z), torch.stack(offset)

    def logits(self, embedding, z, offset):
        """s = global([e_c ; z]) + e_f . (P z + p) + o"""
        e_c, e_f = embedding[:self.concatenated], embedding[self.concatenated:]
        s = self.global_(torch.cat([e_c.expand(len(z), -1), z], dim=1)).squeeze(1)
        return s + self.factor(z) @ e_f + offset

    def score(self, embedding, candidates):
        """What limaml_score gives: probabilities, or for squared loss values."""
        s = self.logits(embedding, *self.encode(self.features, candidates))
        return torch.sigmoid(s) if self.description["loss"] == "binary" else s

    def support_loss(self, s, label, weight):
        if self.description["loss"] == "binary":
            loss = nn.functional.softplus(s) - label * s
        else:
            loss = (s - label) ** 2 / 2
        total = weight.sum()
        scale = {
            "mean": total,
            "sqrt": torch.sqrt(5 * total),
            "damped": total + 10,
            "sqrt_damped": torch.sqrt(5 * (total + 10)),
        }[self.description["inner_weighting"]]
        return (weight * loss).sum() / scale

    def adapt(self, entity, rows, label, time, weight=None):
        """The meta embedding of an entity (a dict of columns), adapted on its rows.

        label, time and weight name columns of the rows, as limaml_create_model does.
        """
        x = self.encode(self.meta_features, [entity])[0][0]
        rows = sorted(rows, key=lambda row: row[time])[-self.description["support_rows"]:]
        weights = [1.0 if weight is None else row[weight] for row in rows]
        if self.description["recency"] is not None:
            newer = [sum(other[time] > row[time] for other in rows) for row in rows]
            weights = [w * math.exp(-n / self.description["recency"])
                       for w, n in zip(weights, newer)]
        if sum(weights) <= 0:
            return self.meta(x).detach()

        weights = torch.tensor(weights, dtype=torch.double)
        labels = torch.tensor([float(row[label]) for row in rows], dtype=torch.double)
        z, offset = [encoded.detach() for encoded in self.encode(self.features, rows)]
        meta = copy.deepcopy(self.meta)         # this entity's own
        embedding = meta(x).detach()
        for _ in range(self.description["inner_steps"]):
            if self.description["adapts"] == "embedding":
                embedding.requires_grad_()
                loss = self.support_loss(self.logits(embedding, z, offset), labels, weights)
                gradient, = torch.autograd.grad(loss, embedding)
                embedding = (embedding - self.inner_rate[-1] * gradient).detach()
                continue
            loss = self.support_loss(self.logits(meta(x), z, offset), labels, weights)
            gradients = iter(torch.autograd.grad(loss, list(meta.parameters())))
            with torch.no_grad():
                for rate, layer in zip(self.inner_rate, linear(meta)):
                    layer.weight -= rate * next(gradients)
                    layer.bias -= rate * next(gradients)
            embedding = meta(x).detach()
        return embedding

"""What 014_pytorch.pl asks of limaml_torch.py.

    check.py scores DATA NETWORK...             adapts and scores as the server does
    check.py write DATA [NETWORK OPTIONS]...    writes networks with new weights

DATA is a JSON object: interactions, entities and candidates, lists of rows.
Beside a network scores writes NETWORK.csv, lines of an entity's key and its
embedding, or of its key, a candidate's and the score.
"""

import json
import sys

import torch

import limaml_torch as limaml


def scores(data, *paths):
    for path in paths:
        network = limaml.Network.load(path)
        weight = network.description["options"].get("weight")
        with open(path + ".csv", "w", encoding="utf-8") as out:
            for entity in data["entities"]:
                own = [row for row in data["interactions"]
                       if row["member_id"] == entity["member_id"]]
                embedding = network.adapt(entity, own, "label", "at", weight)
                print(entity["member_id"], "", f'"{embedding.tolist()}"', "", sep=",", file=out)
                given = network.score(embedding, data["candidates"])
                for candidate, score in zip(data["candidates"], given.tolist()):
                    print(entity["member_id"], candidate["n"], "", score, sep=",", file=out)


def write(data, *pairs):
    torch.manual_seed(1)
    rows = data["interactions"]
    entities = data["entities"]
    features = [limaml.category("item_id", [row["item_id"] for row in rows], size=5),
                limaml.numeric("price", [row["price"] for row in rows]),
                limaml.category("kind", [row["kind"] for row in rows], size=3)]
    meta_features = [limaml.numeric("age", [entity["age"] for entity in entities]),
                     limaml.category("plan", [entity["plan"] for entity in entities], size=2)]
    arrays = [limaml.categories("tags", [row["tags"] for row in rows], size=4),
              limaml.categories("codes", [row["codes"] for row in rows], size=2),
              limaml.vector("v", [row["v"] for row in rows])]
    meta_arrays = [limaml.categories("plans", [entity["plans"] for entity in entities], size=2),
                   limaml.vector("known", [entity["known"] for entity in entities])]
    for path, options in zip(pairs[::2], pairs[1::2]):
        description = limaml.describe(*((arrays, meta_arrays) if path.endswith("arrays.new") else
                                        (features, meta_features)), **json.loads(options))
        network = limaml.Network(description, limaml.initial_tensors(description))
        with torch.no_grad():
            # not what training begins with, where much is zero
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
            network.inner_rate.uniform_(0.3, 0.6)
        network.save(path)


if __name__ == "__main__":
    command, path, *rest = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        {"scores": scores, "write": write}[command](json.load(file), *rest)

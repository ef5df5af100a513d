"""RecTools' HSTU, timed: runs in an environment of its own, which has no freshet in it.

python peer_hstu.py LOG.csv SHAPE.json prints one JSON object with processor seconds per call.
"""

import json
import sys
import warnings
from pathlib import Path
from time import process_time

warnings.filterwarnings("ignore")


def main(log: str, shape_file: str) -> None:
    """Fit one short epoch, then time recommendations user by user and all at once."""
    import pandas as pd  # noqa: PLC0415
    from rectools import Columns  # noqa: PLC0415
    from rectools.dataset import Dataset  # noqa: PLC0415
    from rectools.models import HSTUModel  # noqa: PLC0415

    shape = json.loads(Path(shape_file).read_text(encoding="utf-8"))
    frame = pd.read_csv(log)
    frame[Columns.Datetime] = pd.to_datetime(frame.pop("ts"), unit="ms")
    frame[Columns.Weight] = 1.0
    dataset = Dataset.construct(frame)
    model = HSTUModel(
        n_blocks=shape["layers"],
        n_heads=shape["heads"],
        n_factors=shape["width"],
        session_max_len=shape["session"],
        loss="sampled_softmax",
        n_negatives=16,
        epochs=1,
        batch_size=64,
        deterministic=True,
        recommend_batch_size=256,
        recommend_torch_device="cpu",
    )
    model.fit(dataset)
    users = frame[Columns.User].drop_duplicates().sample(shape["users"], random_state=0).tolist()

    context = frame.drop_duplicates(Columns.User).drop(columns=Columns.Item)
    context = context.assign(**{Columns.Datetime: frame[Columns.Datetime].max()})

    def recommend(asked: list[object]) -> float:
        now = context[context[Columns.User].isin(asked)]
        started = process_time()
        model.recommend(
            users=asked, dataset=dataset, k=shape["k"], filter_viewed=False, context=now
        )
        return process_time() - started

    recommend(users[:1])
    one = [recommend([user]) for user in users]
    together = [recommend(users) / len(users) for _ in range(shape["repetitions"])]
    sys.stdout.write(json.dumps({"one": one, "together": together}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])

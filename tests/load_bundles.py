"""For test_bundle: load each folder named, ask the model that comes out, and say in a line what became of it."""

import sys

import numpy as np
import pandas as pd

from ride_duration.errors import BrokenBundle, NoModel
from ride_duration.model.bundle import load_bundle

random = np.random.default_rng(1)
rides = pd.DataFrame({
    "pickup_at": np.datetime64("2023-01-01", "us") + random.integers(0, 365 * 86400, 500).astype("timedelta64[s]"),
    "PULocationID": random.integers(1, 266, 500), "DOLocationID": random.integers(1, 266, 500), "trip_distance": random.gamma(2, 2, 500),
})  # fmt: skip
for folder in sys.argv[1:]:
    try:
        model = load_bundle(folder)
    except (BrokenBundle, NoModel) as error:
        assert str(error).isprintable() and len(str(error)) < 600, str(error)
        print("refused:", str(error)[-150:], flush=True)
        continue
    answers = np.column_stack([model.predict(rides), model.predict_interval(rides)])
    model.answer(132, 230, np.datetime64("2023-05-05T12:00"), 17.0)
    assert np.isfinite(answers).all() and (answers >= 1).all() and (answers <= 60).all()
    print("answered", flush=True)

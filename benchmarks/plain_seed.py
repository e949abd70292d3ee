"""The plain script of the mission, as it is widely taught: pandas, a dict per ride, DictVectorizer, LinearRegression.

    python benchmarks/plain_seed.py TRAIN.parquet VAL.parquet [--vectorised]

As taught, the duration is computed ride by ride with `apply`; --vectorised replaces that one line by pandas' own `.dt`, which
is what a careful reader of it would do first. The peers that seed_speed.py measures the library against. It prints training and validation RMSE in minutes.
"""

import sys

import pandas as pd
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_error

ZONES = ["PULocationID", "DOLocationID"]


def read(path: str, vectorised: bool) -> pd.DataFrame:
    trips = pd.read_parquet(path)
    took = trips.tpep_dropoff_datetime - trips.tpep_pickup_datetime
    trips["duration"] = took.dt.total_seconds() / 60 if vectorised else took.apply(lambda ride: ride.total_seconds() / 60)
    trips = trips[(trips.duration >= 1) & (trips.duration <= 60)].copy()
    trips[ZONES] = trips[ZONES].astype(str)
    return trips


def main(train_path: str, val_path: str, *options: str) -> None:
    vectorised = "--vectorised" in options
    train = read(train_path, vectorised)
    vectorizer = DictVectorizer()
    features = vectorizer.fit_transform(train[ZONES].to_dict(orient="records"))
    model = LinearRegression().fit(features, train.duration)
    learnt = root_mean_squared_error(train.duration, model.predict(features))
    val = read(val_path, vectorised)
    predicted = model.predict(vectorizer.transform(val[ZONES].to_dict(orient="records")))
    print(f"{learnt:.6f} {root_mean_squared_error(val.duration, predicted):.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

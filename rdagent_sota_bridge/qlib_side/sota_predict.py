"""Runs in Qlib's environment: the predictions of a recorded model, on data as they are now.

The data set is built from its recorded configuration, and the processors that were fitted in the training are
taken from the recorded data set, and applied (`qlib/data/dataset/handler.py`, pyqlib 0.9.7). In the folder
are `sota_request.json` (`qlib_init`, `dataset`, `asked`, `late`), `dataset`, `params.pkl`, `pred.pkl`, and
what these need. Writes `sota_predictions.parquet`, `sota_repeated.parquet` where days are asked for, and
`sota_answer.json`, which says why there are none where `refused` is in it.

Of a bundle, its own plain files are there in place of the three pickles, and no old scores.
"""

import json
import platform
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pandas as pd
import qlib
from qlib.data import D
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

STEPS = 30  # days that a TSDatasetH looks back where it is not told how many (`TSDatasetH.DEFAULT_STEP_LEN`)


def answer(about: Any) -> None:
    """Write what is said of the predictions."""
    Path("sota_answer.json").write_text(json.dumps(about), encoding="utf-8")


def refuse(fact: str, place: object, fix: str) -> None:
    """Say why there are no predictions, and end."""
    answer({"refused": [fact, str(place), fix]})
    sys.exit()


def days_of(calendar: Any, asked: Any) -> Any:
    """Return the trading days that are asked for."""
    first, last = map(pd.Timestamp, asked)
    place = "Qlib's calendars/day.txt, from {:%Y-%m-%d} to {:%Y-%m-%d}".format(*calendar[[0, -1]])
    if last > calendar[-1]:
        refuse(
            f"Qlib's data end before {last:%Y-%m-%d}",
            place,
            "bring Qlib's data up to date, or ask for latest",
        )
    days = calendar[(calendar >= first) & (calendar <= last)]
    if not len(days):
        before = calendar[max(0, calendar.searchsorted(first) - 1)]
        refuse(f"{asked[0]} is no trading day", place, f"name one, such as {before:%Y-%m-%d}")
    return days


def check_values(market: str, days: Any, filled: Any) -> None:
    """Refuse days without instruments, and days behind the last value of a feature."""
    for day in days.difference(filled.index)[:1]:
        fix = "bring Qlib's list of the market's instruments up to date, or name another day"
        refuse(f"The market {market} has no instrument on {day:%Y-%m-%d}", f"instruments/{market}.txt", fix)
    ends = filled.apply(lambda column: column.index[column][-1])
    short = ends[ends < days[-1]]
    if len(short):
        fact = f"Features end on {short.min():%Y-%m-%d}, before {days[-1]:%Y-%m-%d}"
        fix = "bring the factor set or Qlib's data up to date, or name an earlier day"
        refuse(fact, "the features {}".format(", ".join(short.index)), fix)


def check_begin(begin: Any, filled: Any) -> None:
    """Refuse values of which some begin after the first day that the model looks at."""
    firsts = filled.apply(lambda column: column.index[column][0])
    late = firsts[firsts > max(begin, filled.index[0])]
    if len(late):
        fact = (
            f"Features begin on {late.max():%Y-%m-%d}, and the model looks at days from {begin:%Y-%m-%d} on"
        )
        refuse(fact, "the features {}".format(", ".join(late.index)), "bring values of these days too")


def main() -> None:
    """Predict."""
    config = json.loads(Path("sota_request.json").read_text(encoding="utf-8"))
    qlib.init(**config["qlib_init"])
    is_bundle = Path("fitted.json").is_file()
    # Pickles of the training: Qlib's own way, and the model's code is run in any case.
    predicted = None if is_bundle else pd.read_pickle("pred.pkl")["score"]  # noqa: S301
    arguments, asked = config["dataset"]["kwargs"], config["asked"]
    wanted, test = arguments["handler"]["kwargs"], arguments["segments"]["test"]
    calendar = pd.DatetimeIndex(D.calendar())
    if asked:
        days = calendar[-1:] if asked == "latest" else days_of(calendar, asked)
        # An open end, or one that the data have reached since, would take in days that are not old.
        end = days[-1] if predicted is None else max(predicted.index.get_level_values("datetime"))
        test = [test[0], str(end)]
        wanted["end_time"] = str(max(days[-1], end))
        if config["late"]:
            first = min(pd.Timestamp(test[0]), days[0])
            begin = calendar[max(0, calendar.searchsorted(first) - arguments.get("step_len", STEPS))]
            begin = max(begin, pd.Timestamp(wanted["start_time"]))
            wanted["start_time"] = str(begin)
            for loader in wanted["data_loader"]["kwargs"]["dataloader_l"]:
                if isinstance(file := loader["kwargs"]["config"], str):  # it would keep all of the set
                    later = pd.read_parquet(file, filters=[("datetime", ">=", begin)])
                    loader["kwargs"]["config"] = later
    wanted["init_data"] = False  # else it would be loaded twice, and processors fitted
    handler = init_instance_by_config(arguments["handler"])
    handler.learn_processors = []  # nothing learns, and they would take a copy of all
    if is_bundle:
        own = import_module("predict")
        own.prepare(handler)
        model = own.network(config["model"])
    else:
        recorded, model = pd.read_pickle("dataset").handler, pd.read_pickle("params.pkl")  # noqa: S301
        handler.shared_processors = recorded.shared_processors
        handler.infer_processors = recorded.infer_processors
        handler.setup_data(init_type=DataHandlerLP.IT_LS)
    arguments["handler"] = handler
    model.n_jobs = 0  # RD-Agent asks for 20 processes, each of which fetches one row at a time
    dataset = init_instance_by_config(config["dataset"])

    def scores(segment: Any) -> Any:
        dataset.segments = {**dataset.segments, "test": tuple(segment)}
        return model.predict(dataset)

    about: Any = {"data_from": str(wanted["start_time"])[:10], "qlib_data_end": str(calendar[-1])[:10]}
    if asked:
        filled = handler._data["feature"].notna().groupby(level="datetime").any()
        filled = filled.loc[:, filled.any()]  # one without any value had none in the training either
        latest = filled.index[filled.all(axis=1)][-1]
        if asked == "latest":
            days = pd.DatetimeIndex([latest])
        check_values(handler.instruments, days, filled)
        if is_bundle:
            steps = arguments.get("step_len", STEPS) if "TS" in config["dataset"]["class"] else 1
            check_begin(calendar[max(0, calendar.searchsorted(days[0]) + 1 - steps)], filled)
        else:
            repeated = {"score": scores(test), "recorded": predicted}
            pd.concat(repeated, axis=1).to_parquet("sota_repeated.parquet")
        about.update({"features_end": str(latest)[:10], "days": [str(day)[:10] for day in days]})
        test = [str(days[0]), str(days[-1])]
    found = scores(test)
    labels = handler.fetch(slice(*test), col_set="label", data_key=DataHandlerLP.DK_R)
    pd.DataFrame({"score": found, "label": labels.iloc[:, 0].reindex(found.index)}).to_parquet(
        "sota_predictions.parquet"
    )
    versions = {"python": platform.python_version()}
    for name in ("pyqlib", "torch", "pandas", "numpy"):
        versions[name] = metadata.version(name)
    answer({**about, "versions": versions})


main()

"""RD-Agent's model YAML, `conf_sota_factors_model.yaml`, in both forms that it had, shortened."""

from __future__ import annotations

_HEAD = """\
qlib_init:
    provider_uri: "~/.qlib/qlib_data/cn_data"
market: &market csi300
data_handler_config: &data_handler_config
    instruments: *market
    data_loader:
        class: NestedDataLoader
        kwargs:
            dataloader_l:
                - class: qlib.contrib.data.loader.Alpha158DL
                  kwargs:
                    config:
                        label:
                            - ["Ref($close, -2)/Ref($close, -1) - 1"]
                            - ["LABEL0"]
                        feature:
"""
_LOADER = """\
                - class: qlib.data.dataset.loader.StaticDataLoader
                  kwargs:
                    config: "combined_factors_df.parquet"

"""
_TASK = """\
task:
    model:
        kwargs:
            pt_model_kwargs: {
                "num_features": {{ num_features }}{% if num_timesteps %}, "x": {{ num_timesteps }}{% endif %}
            }
    dataset:
        kwargs:
            handler:
                kwargs: *data_handler_config
            segments:
"""
# 0.8.0: the features stand there.
OLD_FORM = (
    _HEAD
    + """\
                            - ["Resi($close, 5)/$close", "($high-$low)/$open",
                               "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 5)"]
                            - ["RESI5", "KLEN",
                               "CORD5"]
"""
    + _LOADER
    + _TASK
    + "                train: [2008-01-01, 2014-12-31]\n"
    + "                valid: [2015-01-01, 2016-12-31]\n"
    + "                test: [2017-01-01, 2020-08-01]\n"
)
# 1.0.0: the features are variables.
NEW_FORM = (
    _HEAD
    + """\
                            - {{ feature_expressions }}
                            - {{ feature_names }}
"""
    + _LOADER
    + _TASK
    + '                train: [{{ train_start | default("2008-01-01", true) }}, '
    + '{{ train_end | default("2014-12-31", true) }}]\n'
    + '                valid: [{{ valid_start | default("2015-01-01", true) }}, '
    + '{{ valid_end | default("2016-12-31", true) }}]\n'
    + '                test: [{{ test_start | default("2017-01-01", true) }}, '
    + '{{ test_end | default("null", true) }}]\n'
)

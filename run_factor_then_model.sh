#!/bin/sh
# Mines factors, then trains models on them. More options, such as --resume, go on to the command.
exec rdagent-sota run --factor-loops "${FACTOR_LOOPS:-10}" --model-loops "${MODEL_LOOPS:-10}" "$@"

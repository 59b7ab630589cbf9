#!/bin/sh
# Mines factors, then trains models on them: FACTOR_LOOPS and MODEL_LOOPS loops, ten of each if not set.
# More options, such as --resume, are passed on to the command.
exec rdagent-sota run ${FACTOR_LOOPS:+--factor-loops "$FACTOR_LOOPS"} ${MODEL_LOOPS:+--model-loops "$MODEL_LOOPS"} "$@"

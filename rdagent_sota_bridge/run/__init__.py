"""`rdagent-sota run`: factor stage, check, model stage and report, as one job that can be resumed."""

"""A small market, a scripted LLM and a sandbox: what the real `rdagent` needs to run end to end, offline."""

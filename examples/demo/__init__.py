"""The demo: a small market, a scripted LLM and a sandbox: the real `rdagent` runs in it, offline."""

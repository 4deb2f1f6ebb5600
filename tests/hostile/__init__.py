"""Inputs of other people's kind, as tables: each works, or gets one sentence: what must hold, what came, what to do."""

"""Inputs of other people's kind, as tables: each works, or gets one sentence that says what must hold, what came and what to do."""

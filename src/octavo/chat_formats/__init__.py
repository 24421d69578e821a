"""How models write thinking and calls of tools: a table of formats, what reads them, and grammars of them."""

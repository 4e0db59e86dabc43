"""Plain numbers in, Plotly figures out: ``style`` is the house style, the rest one module a chapter."""

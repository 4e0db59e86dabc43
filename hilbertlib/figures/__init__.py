"""Plain numbers in, Plotly figures out: the house ``style``, and one module a chapter."""

"""Coverage-guided fuzzing of every parser, by atheris: ``python -m fuzz TARGET`` or ``make fuzz``.

A target is a module with a function ``one_input(data)``. It may raise nothing, on any bytes: what is documented to
leave a parser is caught, and what it gives is checked, above all that it doesn't depend on how the bytes are cut.

    __main__    instruments gevpy, and runs a target from the inputs in corpus/TARGET and what was found before
    corpus/     inputs to begin with, a few for each target: one of each kind that a parser tells apart
"""
